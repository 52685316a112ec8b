//! The network API as clients see it, on a real store, with a host that answers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod documents;
mod encryption;
mod floating;
mod lists;
mod networks;
mod policies;
mod ports;
mod qos;
mod quotas;
mod routers;
mod security;
mod servers;
mod subnets;
mod world;

/// A test of each scenario on SQLite, and one of all of them on PostgreSQL, whose server takes its time to start.
macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $name() {
                    crate::$module::$name(crate::world::world().await).await;
                }
            )*
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn all_on_postgres() {
            $({
                println!(stringify!($name));
                let database = store::testing::postgres(&crate::world::TABLES).await;
                let world = crate::world::on(&database.url).await;
                let core = world.core.clone();
                $module::$name(world).await;
                core.tasks.stop().await;
                core.store.close().await;
                database.delete().await;
            })*
        }
    };
}

scenarios! {
    addresses::concurrent_ports_never_share_and_stay_in_their_pools,
    addresses::of_many_that_want_one_address_one_gets_it,
    addresses::both_families_and_stateful_ipv6,
    documents::a_host_gets_what_its_ports_need_and_nothing_else,
    documents::routers_made_before_their_host_find_it_and_a_returning_host_is_told_again,
    documents::an_old_report_does_not_vouch_for_what_came_later,
    documents::hosts_hear_where_the_ports_of_others_are,
    documents::hosts_hear_of_vlans_as_of_physical_networks,
    documents::a_host_that_comes_back_at_another_address_is_reached_there,
    encryption::networks_with_the_greatest_mtu_follow_the_setting,
    encryption::hosts_hear_of_their_peers_keys,
    encryption::an_address_is_one_hosts,
    floating::from_pool_to_port_and_back,
    floating::what_cannot_float,
    lists::filters_fields_and_order,
    lists::pages_in_both_directions_by_column_and_by_document,
    lists::documents_of_the_service,
    networks::a_network_from_birth_to_death,
    networks::what_a_network_may_not_be,
    networks::bulk_is_all_or_nothing_and_segments_are_unique,
    networks::vlans_are_chosen_or_given_out,
    networks::in_use_networks_stay_and_sharing_is_guarded,
    networks::an_mtu_carries_its_subnets,
    networks::changes_on_condition,
    networks::tags,
    policies::every_route_wants_a_token,
    policies::another_project_sees_nothing_and_a_reader_changes_nothing,
    policies::shared_and_external_networks_are_seen_but_not_owned,
    policies::admins_act_for_projects,
    ports::defaults_of_a_port,
    ports::addresses_as_wished,
    ports::macs_pairs_options_and_security,
    ports::tags_come_with_ports_and_bulk_is_one_request,
    qos::a_policy_from_birth_to_death,
    qos::rules_of_a_policy,
    qos::rules_of_packets_and_marks,
    qos::types_of_rules,
    qos::ports_and_networks_with_policies,
    qos::a_host_hears_of_limits_at_once,
    qos::what_ports_ask_of_their_host,
    qos::a_bound_port_that_asks_for_something_else_is_heard_of,
    quotas::limits_hold_under_many_hands,
    routers::a_router_with_gateway_and_interface,
    routers::what_an_interface_may_not_be,
    routers::gateways_and_extra_routes,
    security::the_default_group_is_there_when_it_is_looked_for,
    security::groups_and_their_rules,
    servers::a_servers_ports_from_plan_to_release,
    servers::plans_that_cannot_be,
    servers::groups_of_a_running_server,
    servers::a_strangers_port_is_no_servers,
    subnets::defaults_and_changes,
    subnets::what_a_subnet_may_not_be,
    subnets::in_use_subnets_stay_but_the_service_port_and_slaac_do_not_hold_them,
}
