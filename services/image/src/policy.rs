//! The rules of this service: upstream's names and secure defaults.

use policy::{Rule, ScopeType};

const PROJECT: &[ScopeType] = &[ScopeType::Project];

const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const ADMIN: &str = "rule:context_is_admin";
const READER_OR_SHARED: &str = "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)";
const ALL_WHO_SEE: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or project_id:%(member_id)s \
     or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const ALL_WHO_LOAD: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or project_id:%(member_id)s \
     or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";

pub static RULES: &[Rule] = &[
    Rule::helper("default", "", "Stands in for a rule that is not defined."),
    Rule::helper("context_is_admin", "role:admin", "The cloud's administrators: they see and own every image."),
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
        ],
    ),
    rule("publicize_image", ADMIN, "Make an image public.", &[("POST", "/v2/images"), ("PATCH", "/v2/images/{image_id}")]),
    rule("communitize_image", MEMBER, "Make an image a community image.", &[("POST", "/v2/images"), ("PATCH", "/v2/images/{image_id}")]),
    rule("download_image", ALL_WHO_LOAD, "Download an image.", &[("GET", "/v2/images/{image_id}/file")]),
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
];

const fn rule(
    name: &'static str,
    default: &'static str,
    description: &'static str,
    operations: &'static [(&'static str, &'static str)],
) -> Rule {
    Rule::new(name, default, description, operations).scoped(PROJECT)
}
