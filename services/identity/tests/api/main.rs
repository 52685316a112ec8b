//! The service as its clients see it: real routes, a real store, real tokens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod application_credentials;
mod assignments;
mod attacks;
mod auth;
mod cloud;
mod console;
mod domain_config;
mod ec2;
mod endpoint_filter;
mod endpoint_policy;
mod factors;
mod federation;
mod json_home;
mod ldap;
mod limits;
mod mtls;
mod oauth1;
mod oauth2;
mod openid;
mod passwords;
mod persona_rows;
mod personas;
mod policies;
mod policy_table;
mod resources;
mod rules;
mod saml;
mod sealed;
mod shared_keys;
mod slapd;
mod tokens;
mod trusts;
mod websso;
mod x509;

use std::pin::Pin;

use futures_util::StreamExt;

/// A test of each scenario on SQLite, and a list of all of them for PostgreSQL, whose server takes its time to start.
macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::$module::$name(crate::cloud::Cloud::new().await).await;
                }
            )*
        }

        fn scenarios() -> Vec<(&'static str, Scenario)> {
            vec![$((stringify!($name), |cloud| Box::pin(crate::$module::$name(cloud)))),*]
        }
    };
}

type Scenario = fn(cloud::Cloud) -> Pin<Box<dyn Future<Output = ()>>>;

/// All scenarios, a quarter in each test: a busy machine takes minutes for all of them.
mod all_on_postgres {
    #[tokio::test]
    async fn first_quarter() {
        super::quarter_on_postgres(0).await;
    }

    #[tokio::test]
    async fn second_quarter() {
        super::quarter_on_postgres(1).await;
    }

    #[tokio::test]
    async fn third_quarter() {
        super::quarter_on_postgres(2).await;
    }

    #[tokio::test]
    async fn last_quarter() {
        super::quarter_on_postgres(3).await;
    }
}

/// Every fourth scenario, some of them at once: mostly they wait for the database.
async fn quarter_on_postgres(first: usize) {
    let run = |(name, scenario): (&'static str, Scenario)| async move {
        println!("{name} begins");
        let database = store::testing::postgres(&cloud::TABLES).await;
        let cloud = cloud::Cloud::on(tempfile::tempdir().unwrap(), Some(&database.url), |_| {}).await;
        let store = cloud.store.clone();
        scenario(cloud).await;
        store.close().await;
        database.delete().await;
        println!("{name} is over");
    };
    futures_util::stream::iter(scenarios().into_iter().skip(first).step_by(4)).for_each_concurrent(4, run).await;
}

scenarios! {
    auth::a_password_gives_a_token_for_a_project,
    auth::scopes_are_given_as_asked,
    auth::a_default_project_is_the_scope_unless_unscoped_is_asked_for,
    auth::a_token_gives_a_token,
    auth::bad_logins_are_told_apart_from_wrong_ones,
    auth::several_methods_can_be_demanded,
    auth::version_documents_need_no_token,
    tokens::no_other_text_passes_for_a_token,
    tokens::what_happens_to_a_user_happens_to_the_tokens,
    tokens::what_happens_to_a_scope_happens_to_its_tokens,
    tokens::the_catalogue_of_a_token_follows_the_catalogue,
    attacks::a_request_does_not_say_what_it_is_about,
    attacks::a_method_is_tried_once,
    attacks::a_long_secret_counts_to_its_end,
    attacks::addresses_tell_no_settings,
    attacks::only_own_projects_are_listed,
    rules::every_route_but_the_public_ones_wants_a_token,
    rules::a_member_of_a_project_sees_little,
    rules::a_reader_of_the_system_sees_all_and_changes_nothing,
    rules::a_manager_of_a_domain_rules_there_and_nowhere_else,
    rules::a_token_without_a_scope_shows_its_user_and_no_more,
    assignments::assignments_tell_where_they_come_from,
    assignments::grants_are_given_listed_and_taken_back,
    assignments::filters_leave_what_they_name,
    resources::users,
    resources::lists_filter_and_page,
    resources::groups,
    resources::projects,
    resources::domains,
    resources::roles_and_what_they_imply,
    resources::regions_services_and_endpoints,
    resources::credentials,
    policies::policy_blobs,
    trusts::trusts_are_made_listed_and_deleted,
    trusts::who_may_not_make_a_trust,
    trusts::a_trust_gives_tokens,
    trusts::uses_are_counted,
    trusts::a_trust_holds_no_longer_than_what_it_stands_on,
    trusts::a_trust_is_handed_on,
    trusts::credentials_of_another_project_are_not_lent,
    ec2::ec2_credentials_are_made_listed_and_deleted,
    ec2::a_signature_gives_a_token,
    ec2::a_blob_gives_nothing_by_itself,
    ec2::a_secret_that_was_chosen_is_not_guessed,
    ec2::a_credential_gives_no_more_than_the_trust_that_made_it,
    ec2::a_credential_gives_no_more_than_the_application_credential_that_made_it,
    application_credentials::credentials_are_made_listed_and_deleted,
    application_credentials::bad_credentials_are_refused,
    application_credentials::a_credential_gives_tokens,
    application_credentials::a_credential_is_not_stretched,
    application_credentials::who_may_see_credentials_and_rules,
    application_credentials::access_rules_bound_what_a_token_does,
    application_credentials::a_credential_goes_with_what_it_stands_on,
    application_credentials::a_credential_ends,
    ldap::users_and_groups_of_a_directory,
    ldap::a_directory_knows_the_passwords,
    ldap::a_stored_password_does_not_work_where_a_directory_is,
    ldap::who_guesses_passwords_of_a_directory_is_slowed_down,
    ldap::options_say_how_entries_are_read,
    ldap::tls_asks_who_the_directory_is,
    ldap::a_hostile_directory_harms_nobody_else,
    factors::a_code_counts_once,
    factors::codes_are_not_guessed,
    factors::a_receipt_stands_for_the_methods_so_far,
    factors::a_receipt_is_void_with_what_it_stands_on,
    factors::revocations_are_told,
    federation::identity_providers,
    federation::mappings_and_protocols,
    federation::service_providers,
    federation::who_may_what,
    openid::a_user_of_a_provider_comes_in,
    openid::a_user_is_linked_to_a_name_elsewhere,
    openid::mappings_decide_who_it_is,
    openid::memberships_outlive_tokens_as_long_as_they_may,
    openid::tokens_that_are_not_believed,
    openid::keys_change,
    openid::providers_that_answer_badly,
    openid::providers_that_say_they_are_others,
    saml::a_cloud_says_who_somebody_is,
    saml::not_everybody_gets_an_assertion,
    saml::a_user_of_another_cloud_comes_in,
    saml::a_provider_encrypts_for_us,
    saml::a_user_of_a_saml_provider_comes_in,
    saml::a_browser_logs_in_at_a_saml_provider,
    websso::a_browser_logs_in_at_an_openid_provider,
    oauth1::consumers_are_made_listed_and_deleted,
    oauth1::a_consumer_acts_with_what_it_was_let,
    oauth1::what_is_signed_wrongly_gives_nothing,
    oauth2::a_credential_is_a_client,
    oauth2::what_is_wrong_is_told_in_oauths_words,
    oauth2::who_guesses_secrets_is_slowed_down,
    mtls::a_certificate_is_a_client,
    mtls::a_token_is_bound_to_its_certificate,
    mtls::a_certificate_of_another_is_refused,
    mtls::ways_of_clients_are_chosen,
    x509::a_certificate_stands_for_a_token,
    x509::who_has_no_certificate_of_a_trusted_issuer_needs_a_token,
    x509::a_certificate_names_a_user,
    x509::a_proxy_names_a_user,
    resources::every_change_leaves_an_event,
    domain_config::domains_are_configured,
    domain_config::defaults_and_password_rules_can_be_read,
    endpoint_filter::catalogues_show_what_was_chosen,
    endpoint_policy::the_nearest_policy_is_in_force,
    json_home::every_path_has_its_relation,
    limits::limits_are_registered_and_overridden,
    limits::limits_are_seen_by_those_they_are_for,
    limits::limits_of_a_strict_tree,
    limits::services_ask_for_what_a_project_may_have,
    passwords::wrong_passwords_lock_an_account,
    passwords::nobody_hears_who_is_there,
    passwords::guessing_fast_is_not_answered,
    passwords::passwords_end,
    passwords::old_passwords_do_not_come_back,
    passwords::weak_passwords_are_refused,
    passwords::a_password_from_another_hand_is_changed_first,
    passwords::who_stays_away_is_disabled,
    policy_table::rules_are_upstreams,
    console::who_is_locked_out_gets_in_again,
    console::what_is_over_is_forgotten,
    sealed::keys_are_rotated_and_secrets_migrated,
    sealed::a_running_cloud_follows_the_keys,
    personas::every_rule_is_tried_by_every_persona,
    assignments::one_world,
}
