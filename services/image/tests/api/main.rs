//! The image API as clients see it, on real stores and real files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bootable;
mod bring;
mod cache;
mod ceph;
mod connections;
mod content;
mod crashes;
mod formats;
mod images;
mod imports;
mod limits;
mod lists;
mod locations;
mod metadefs;
mod personas;
mod plugins;
mod policy_table;
mod properties;
mod reflinks;
mod s3;
mod sharing;
mod signatures;
mod updates;
mod volumes;
mod web;
mod world;

/// A test of each scenario on SQLite, and one of all of them on PostgreSQL, whose server takes its time to start.
macro_rules! scenarios {
    ($($module:ident::$name:ident,)*) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    crate::$module::$name(crate::world::World::new().await).await;
                }
            )*
        }

        #[tokio::test]
        async fn all_on_postgres() {
            $({
                println!(stringify!($name));
                let database = store::testing::postgres(&crate::world::TABLES).await;
                let world = crate::world::World::on(&database.url).await;
                let store = world.core.store.clone();
                $module::$name(world).await;
                store.close().await;
                database.delete().await;
            })*
        }
    };
}

scenarios! {
    bootable::what_hosts_cannot_use_is_converted_once,
    bootable::raw_disks_qcow2_and_discs_stay_what_they_are,
    lists::filters,
    lists::pages_link_to_the_next,
    lists::who_sees_what,
    sharing::sharing_from_offer_to_end,
    sharing::only_shared_images_have_members,
    sharing::bodies_of_members,
    updates::attributes_and_properties_change,
    updates::what_cannot_be_changed_changes_nothing,
    updates::the_older_dialect,
    updates::tags,
    images::an_image_has_everything_it_was_made_with,
    images::what_cannot_be_made_is_told_by_name,
    images::every_route_is_denied_to_those_it_is_not_for,
    images::protected_images_stay_and_deleted_ones_are_gone,
    images::deactivated_content_is_for_administrators,
    images::versions_schemas_and_information,
    images::every_change_is_an_event,
    content::an_image_goes_in_and_comes_out,
    content::ranges,
    content::equal_content_is_kept_once_and_as_long_as_anyone_has_it,
    crashes::the_reconciler_leaves_uploads_under_way_alone,
    crashes::a_client_that_goes_away_leaves_the_image_queued,
    crashes::an_image_deleted_during_its_upload_is_gone,
    metadefs::a_namespace_has_everything_it_was_made_with,
    metadefs::bodies_of_definitions,
    metadefs::lists_of_namespaces,
    metadefs::what_is_in_a_namespace_comes_and_goes,
    metadefs::the_standard_definitions_are_there,
    metadefs::schemas_of_definitions,
    imports::staged_content_is_imported,
    imports::what_cannot_be_imported_is_told,
    imports::tasks_tell_of_imports,
    limits::limits_hold,
    locations::content_that_is_there_is_given_to_an_image,
    signatures::every_kind_of_signature_is_verified,
    signatures::a_signature_counts_for_its_key_and_hash_only,
    signatures::what_cannot_be_verified_is_refused,
    signatures::imports_are_verified_too,
    policy_table::rules_are_upstreams,
    personas::every_rule_lets_in_whom_it_should,
    personas::every_rule_is_tried,
}
