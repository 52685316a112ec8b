//! The rules of this service: upstream's names and secure defaults.

use policy::{Rule, ScopeType};

const PROJECT: &[ScopeType] = &[ScopeType::Project];

const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const ADMIN: &str = "rule:context_is_admin";
const DEFAULT: &str = "rule:default";
const NAMESPACE_READER: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))";
const METADEF_ADMIN: &str = "rule:metadef_admin";
const READER_OR_SHARED: &str = "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)";
const ALL_WHO_SEE: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s \
     or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const ALL_WHO_LOAD: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or project_id:%(member_id)s \
     or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";

pub static RULES: &[Rule] = &[
    Rule::helper("default", "", "Stands in for a rule that is not defined."),
    Rule::helper("context_is_admin", "role:admin", "The cloud's administrators: they see and own every image."),
    Rule::helper("service_api", "role:service or role:admin", "Other services of the cloud."),
    rule(
        "add_image",
        "rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
        "Create an image.",
        &[("POST", "/v2/images")],
    ),
    rule("delete_image", MEMBER, "Delete an image.", &[("DELETE", "/v2/images/{image_id}")]),
    rule("get_image", ALL_WHO_SEE, "Show an image.", &[("GET", "/v2/images/{image_id}")]),
    rule("get_images", READER, "List images.", &[("GET", "/v2/images")]),
    rule(
        "modify_image",
        MEMBER,
        "Change an image, its properties and its tags.",
        &[
            ("PATCH", "/v2/images/{image_id}"),
            ("PUT", "/v2/images/{image_id}/tags/{tag_value}"),
            ("DELETE", "/v2/images/{image_id}/tags/{tag_value}"),
            ("PUT", "/v2/images/{image_id}/stage"),
            ("POST", "/v2/images/{image_id}/import"),
        ],
    ),
    rule("publicize_image", ADMIN, "Make an image public.", &[("POST", "/v2/images"), ("PATCH", "/v2/images/{image_id}")]),
    rule("communitize_image", MEMBER, "Make an image a community image.", &[("POST", "/v2/images"), ("PATCH", "/v2/images/{image_id}")]),
    rule("download_image", ALL_WHO_LOAD, "Download an image.", &[("GET", "/v2/images/{image_id}/file")]),
    rule(
        "download_from_store",
        ALL_WHO_LOAD,
        "Choose the store that an image is downloaded from.",
        &[("GET", "/v2/images/{image_id}/file")],
    ),
    rule("get_image_location", READER, "See in which stores an image is.", &[("DELETE", "/v2/stores/{store_id}/{image_id}")]),
    rule("set_image_location", MEMBER, "Change where the content of an image is.", &[("PATCH", "/v2/images/{image_id}")]),
    rule(
        "delete_image_location",
        ADMIN,
        "Take an image out of a store.",
        &[("DELETE", "/v2/stores/{store_id}/{image_id}"), ("PATCH", "/v2/images/{image_id}")],
    ),
    rule(
        "add_image_location",
        "rule:service_api or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
        "Give an image content that a store has.",
        &[("POST", "/v2/images/{image_id}/locations")],
    ),
    rule(
        "fetch_image_location",
        "rule:service_api",
        "See where the content of an image is.",
        &[("GET", "/v2/images/{image_id}/locations")],
    ),
    rule("copy_image", ADMIN, "Copy an image to other stores.", &[("POST", "/v2/images/{image_id}/import")]),
    rule("cache_image", ADMIN, "Have an image cached.", &[("PUT", "/v2/cache/{image_id}")]),
    rule("cache_list", ADMIN, "See what is cached.", &[("GET", "/v2/cache")]),
    rule("cache_delete", ADMIN, "Take images out of the cache.", &[("DELETE", "/v2/cache"), ("DELETE", "/v2/cache/{image_id}")]),
    rule("cache_clean", ADMIN, "Remove what is left of images from the cache.", &[("POST", "/v2/cache/clean")]),
    rule("cache_prune", ADMIN, "Make the cache as small as it shall be.", &[("POST", "/v2/cache/prune")]),
    rule("list_cached_nodes", ADMIN, "See where an image is cached.", &[("GET", "/v2/cache/nodes/{image_id}")]),
    rule("manage_image_cache", ADMIN, "Stands in for older rules of the cache.", &[]),
    rule("stores_info_detail", "rule:context_is_admin or rule:service_api", "See what stores are.", &[("GET", "/v2/info/stores/detail")]),
    rule("get_task", DEFAULT, "Show a task.", &[("GET", "/v2/tasks/{task_id}")]),
    rule("get_tasks", DEFAULT, "List tasks.", &[("GET", "/v2/tasks")]),
    rule("add_task", DEFAULT, "Create a task.", &[("POST", "/v2/tasks")]),
    rule(
        "tasks_api_access",
        ADMIN,
        "Use the tasks API.",
        &[("GET", "/v2/tasks/{task_id}"), ("GET", "/v2/tasks"), ("POST", "/v2/tasks"), ("DELETE", "/v2/tasks/{task_id}")],
    ),
    rule("upload_image", MEMBER, "Upload an image.", &[("PUT", "/v2/images/{image_id}/file")]),
    rule("deactivate", MEMBER, "Deactivate an image.", &[("POST", "/v2/images/{image_id}/actions/deactivate")]),
    rule("reactivate", MEMBER, "Activate an image again.", &[("POST", "/v2/images/{image_id}/actions/reactivate")]),
    rule("add_member", MEMBER, "Share an image with a project.", &[("POST", "/v2/images/{image_id}/members")]),
    rule("delete_member", MEMBER, "Stop sharing an image.", &[("DELETE", "/v2/images/{image_id}/members/{member_id}")]),
    rule("get_member", READER_OR_SHARED, "Show a member of an image.", &[("GET", "/v2/images/{image_id}/members/{member_id}")]),
    rule("get_members", READER_OR_SHARED, "List the members of an image.", &[("GET", "/v2/images/{image_id}/members")]),
    rule(
        "modify_member",
        "rule:context_is_admin or (role:member and project_id:%(member_id)s)",
        "Accept or reject a shared image.",
        &[("PUT", "/v2/images/{image_id}/members/{member_id}")],
    ),
    Rule::helper("metadef_default", "", "Stands in for older rules of metadata definitions."),
    Rule::helper("metadef_admin", ADMIN, "Who administers metadata definitions."),
    rule("get_metadef_namespace", NAMESPACE_READER, "Show a namespace.", &[("GET", "/v2/metadefs/namespaces/{namespace_name}")]),
    rule("get_metadef_namespaces", READER, "List namespaces.", &[("GET", "/v2/metadefs/namespaces")]),
    rule("modify_metadef_namespace", METADEF_ADMIN, "Change a namespace.", &[("PUT", "/v2/metadefs/namespaces/{namespace_name}")]),
    rule("add_metadef_namespace", METADEF_ADMIN, "Create a namespace.", &[("POST", "/v2/metadefs/namespaces")]),
    rule(
        "delete_metadef_namespace",
        METADEF_ADMIN,
        "Delete a namespace, or all its objects or properties.",
        &[
            ("DELETE", "/v2/metadefs/namespaces/{namespace_name}"),
            ("DELETE", "/v2/metadefs/namespaces/{namespace_name}/objects"),
            ("DELETE", "/v2/metadefs/namespaces/{namespace_name}/properties"),
        ],
    ),
    rule(
        "get_metadef_object",
        NAMESPACE_READER,
        "Show an object of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/objects/{object_name}")],
    ),
    rule(
        "get_metadef_objects",
        NAMESPACE_READER,
        "List the objects of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/objects")],
    ),
    rule(
        "modify_metadef_object",
        METADEF_ADMIN,
        "Change an object of a namespace.",
        &[("PUT", "/v2/metadefs/namespaces/{namespace_name}/objects/{object_name}")],
    ),
    rule(
        "add_metadef_object",
        METADEF_ADMIN,
        "Create an object in a namespace.",
        &[("POST", "/v2/metadefs/namespaces/{namespace_name}/objects")],
    ),
    rule(
        "delete_metadef_object",
        METADEF_ADMIN,
        "Delete an object of a namespace.",
        &[("DELETE", "/v2/metadefs/namespaces/{namespace_name}/objects/{object_name}")],
    ),
    rule(
        "get_metadef_property",
        NAMESPACE_READER,
        "Show a property of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/properties/{property_name}")],
    ),
    rule(
        "get_metadef_properties",
        NAMESPACE_READER,
        "List the properties of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/properties")],
    ),
    rule(
        "modify_metadef_property",
        METADEF_ADMIN,
        "Change a property of a namespace.",
        &[("PUT", "/v2/metadefs/namespaces/{namespace_name}/properties/{property_name}")],
    ),
    rule(
        "add_metadef_property",
        METADEF_ADMIN,
        "Create a property in a namespace.",
        &[("POST", "/v2/metadefs/namespaces/{namespace_name}/properties")],
    ),
    rule(
        "remove_metadef_property",
        METADEF_ADMIN,
        "Delete a property of a namespace.",
        &[("DELETE", "/v2/metadefs/namespaces/{namespace_name}/properties/{property_name}")],
    ),
    rule(
        "get_metadef_tag",
        NAMESPACE_READER,
        "Show a tag of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/tags/{tag_name}")],
    ),
    rule(
        "get_metadef_tags",
        NAMESPACE_READER,
        "List the tags of a namespace.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/tags")],
    ),
    rule(
        "modify_metadef_tag",
        METADEF_ADMIN,
        "Change a tag of a namespace.",
        &[("PUT", "/v2/metadefs/namespaces/{namespace_name}/tags/{tag_name}")],
    ),
    rule(
        "add_metadef_tag",
        METADEF_ADMIN,
        "Create a tag in a namespace.",
        &[("POST", "/v2/metadefs/namespaces/{namespace_name}/tags/{tag_name}")],
    ),
    rule(
        "add_metadef_tags",
        METADEF_ADMIN,
        "Create several tags in a namespace.",
        &[("POST", "/v2/metadefs/namespaces/{namespace_name}/tags")],
    ),
    rule(
        "delete_metadef_tag",
        METADEF_ADMIN,
        "Delete a tag of a namespace.",
        &[("DELETE", "/v2/metadefs/namespaces/{namespace_name}/tags/{tag_name}")],
    ),
    rule(
        "delete_metadef_tags",
        METADEF_ADMIN,
        "Delete all tags of a namespace.",
        &[("DELETE", "/v2/metadefs/namespaces/{namespace_name}/tags")],
    ),
    rule("list_metadef_resource_types", NAMESPACE_READER, "List types of resources.", &[("GET", "/v2/metadefs/resource_types")]),
    rule(
        "get_metadef_resource_type",
        NAMESPACE_READER,
        "List the types of resources that a namespace is for.",
        &[("GET", "/v2/metadefs/namespaces/{namespace_name}/resource_types")],
    ),
    rule(
        "add_metadef_resource_type_association",
        METADEF_ADMIN,
        "Say that a namespace is for a type of resource.",
        &[("POST", "/v2/metadefs/namespaces/{namespace_name}/resource_types")],
    ),
    rule(
        "remove_metadef_resource_type_association",
        METADEF_ADMIN,
        "Say that a namespace is no longer for a type of resource.",
        &[("DELETE", "/v2/metadefs/namespaces/{namespace_name}/resource_types/{name}")],
    ),
];

const fn rule(
    name: &'static str,
    default: &'static str,
    description: &'static str,
    operations: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule::new(name, default, description, operations).scoped(PROJECT)
}
