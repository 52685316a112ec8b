//! The API: paths, wire forms, handlers.

mod cache;
mod files;
mod images;
mod info;
mod members;
mod metadefs;
mod tasks;

use http_api::{Api, FaultStyle, Routes};

use crate::{Images, KIND};

pub fn routes(images: Images) -> Routes<Images> {
    let routes = Routes::new(images, Api { service: KIND, style: FaultStyle::Image, versions: None, head: false, slash: false })
        .public("GET", "/", info::versions_choice)
        .public("GET", "/versions", info::versions)
        .get("/v2/images", images::index)
        .post("/v2/images", images::create)
        .get("/v2/images/{image_id}", images::show)
        .patch("/v2/images/{image_id}", images::update)
        .delete("/v2/images/{image_id}", images::delete)
        .post("/v2/images/{image_id}/actions/deactivate", images::action_deactivate)
        .post("/v2/images/{image_id}/actions/reactivate", images::action_reactivate)
        .put("/v2/images/{image_id}/tags/{tag_value}", images::tag_update)
        .delete("/v2/images/{image_id}/tags/{tag_value}", images::tag_delete)
        .get("/v2/images/{image_id}/tasks", tasks::of_image)
        .upload("PUT", "/v2/images/{image_id}/stage", files::stage)
        .post("/v2/images/{image_id}/import", images::import)
        .get("/v2/images/{image_id}/locations", images::locations)
        .post("/v2/images/{image_id}/locations", images::location_create)
        .get("/v2/images/{image_id}/file", files::download)
        .upload("PUT", "/v2/images/{image_id}/file", files::upload)
        .get("/v2/images/{image_id}/members", members::index)
        .post("/v2/images/{image_id}/members", members::create)
        .get("/v2/images/{image_id}/members/{member_id}", members::show)
        .put("/v2/images/{image_id}/members/{member_id}", members::update)
        .delete("/v2/images/{image_id}/members/{member_id}", members::delete)
        .get("/v2/tasks", tasks::index)
        .post("/v2/tasks", tasks::create)
        .get("/v2/tasks/{task_id}", tasks::show)
        .delete("/v2/tasks/{task_id}", tasks::delete)
        .delete("/v2/stores/{store_id}/{image_id}", images::delete_from_store)
        .get("/v2/cache", cache::index)
        .delete("/v2/cache", cache::clear)
        .put("/v2/cache/{image_id}", cache::queue)
        .delete("/v2/cache/{image_id}", cache::delete)
        .post("/v2/cache/clean", cache::clean)
        .post("/v2/cache/prune", cache::prune)
        .get("/v2/cache/nodes/{image_id}", cache::nodes)
        .get("/v2/schemas/task", tasks::schema)
        .get("/v2/schemas/tasks", tasks::schemas)
        .get("/v2/schemas/image", info::schema_image)
        .get("/v2/schemas/images", info::schema_images)
        .get("/v2/schemas/member", info::schema_member)
        .get("/v2/schemas/members", info::schema_members)
        .get("/v2/schemas/metadefs/{name}", info::schema_metadefs)
        .get("/v2/info/import", info::import)
        .get("/v2/info/usage", info::usage)
        .get("/v2/info/stores", info::stores)
        .get("/v2/info/stores/detail", info::stores_detail);
    metadefs::routes(routes)
}
