//! `/v2/images`, its actions and tags.

use axum::http::HeaderValue;
use base::{Error, Kind, Result};
use http_api::response::set_header;
use http_api::{FaultStyle, Query, Request, Response, empty, json};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::imports::{Import, METHODS};
use crate::model::Image;
use crate::{Images, patch};

/// The wire form; custom properties stand beside the attributes, whose names they cannot have. Written as it goes: a page may have a thousand.
struct View<'a> {
    images: &'a Images,
    image: &'a Image,
}

fn view<'a>(images: &'a Images, image: &'a Image) -> View<'a> {
    View { images, image }
}

impl Serialize for View<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let View { images, image } = self;
        let path = format!("/v2/images/{}", image.id);
        let mut out = serializer.serialize_map(None)?;
        image.properties.iter().try_for_each(|(name, value)| out.serialize_entry(name, value))?;
        out.serialize_entry("id", &image.id)?;
        out.serialize_entry("name", &image.name)?;
        out.serialize_entry("status", image.status.as_str())?;
        out.serialize_entry("visibility", image.visibility.as_str())?;
        out.serialize_entry("owner", &image.owner)?;
        out.serialize_entry("protected", &image.protected)?;
        out.serialize_entry("os_hidden", &image.os_hidden)?;
        out.serialize_entry("disk_format", &image.disk_format)?;
        out.serialize_entry("container_format", &image.container_format)?;
        out.serialize_entry("min_disk", &image.min_disk)?;
        out.serialize_entry("min_ram", &image.min_ram)?;
        out.serialize_entry("size", &image.size)?;
        out.serialize_entry("virtual_size", &image.virtual_size)?;
        out.serialize_entry("checksum", &image.checksum)?;
        out.serialize_entry("os_hash_algo", &image.os_hash_algo)?;
        out.serialize_entry("os_hash_value", &image.os_hash_value)?;
        out.serialize_entry("created_at", &image.created_at.iso())?;
        out.serialize_entry("updated_at", &image.updated_at.iso())?;
        out.serialize_entry("tags", &image.tags)?;
        out.serialize_entry("self", &path)?;
        out.serialize_entry("file", &format!("{path}/file"))?;
        out.serialize_entry("schema", "/v2/schemas/image")?;
        if !image.locations.is_empty() {
            let mut stores: Vec<&str> = image.locations.iter().map(|location| location.store.as_str()).collect();
            // Several addresses may be of one store.
            stores.dedup();
            out.serialize_entry("stores", &stores.join(","))?;
        }
        let config = &images.core().config;
        if config.flag("image.show_multiple_locations") {
            out.serialize_entry("locations", &images.locations_view(image))?;
        }
        if config.flag("image.show_image_direct_url")
            && let Some(first) = images.locations_view(image).first()
        {
            out.serialize_entry("direct_url", &first["url"])?;
        }
        out.end()
    }
}

#[derive(Serialize)]
struct Listed<'a> {
    images: Vec<View<'a>>,
    first: String,
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub async fn index(images: Images, req: Request) -> Result<Response> {
    let page = images.image_list(&req.ctx, &req.query).await?;
    let others = Query(req.query.0.iter().filter(|(name, _)| name != "marker").cloned().collect());
    let first = others.encode();
    let next = page.images.last().filter(|_| page.more).map(|last| {
        let mut next = others;
        next.0.push(("marker".into(), last.id.clone()));
        format!("/v2/images?{}", next.encode())
    });
    let listed = Listed {
        images: page.images.iter().map(|image| view(&images, image)).collect(),
        first: if first.is_empty() { "/v2/images".to_string() } else { format!("/v2/images?{first}") },
        schema: "/v2/schemas/images",
        next,
    };
    json(200, &listed)
}

pub async fn create(images: Images, req: Request) -> Result<Response> {
    let image = images.image_create(&req.ctx, req.object()?).await?;
    let mut response = json(201, &view(&images, &image))?;
    set_header(&mut response, "location", &format!("{}/v2/images/{}", req.base_url, image.id));
    set_header(&mut response, "openstack-image-import-methods", &METHODS.join(","));
    set_header(&mut response, "openstack-image-store-ids", &images.stores().ids());
    Ok(response)
}

pub async fn show(images: Images, req: Request) -> Result<Response> {
    json(200, &view(&images, &images.image_show(&req.ctx, req.param("image_id")).await?))
}

pub async fn import(images: Images, req: Request) -> Result<Response> {
    let store = req.header("x-image-meta-store").filter(|store| !store.is_empty());
    let import = Import::parse(req.object()?, store)?;
    images.image_import(&req.ctx, req.param("image_id"), import, req.token.as_deref()).await?;
    empty(202)
}

pub async fn locations(images: Images, req: Request) -> Result<Response> {
    json(200, &images.location_list(&req.ctx, req.param("image_id")).await?)
}

pub async fn location_create(images: Images, req: Request) -> Result<Response> {
    images.location_add(&req.ctx, req.token.as_deref(), req.param("image_id"), req.object()?).await?;
    empty(202)
}

pub async fn delete_from_store(images: Images, req: Request) -> Result<Response> {
    images.image_delete_from_store(&req.ctx, req.param("store_id"), req.param("image_id")).await?;
    empty(204)
}

pub async fn update(images: Images, req: Request) -> Result<Response> {
    let kind = req.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let Some(dialect) = patch::TYPES.iter().position(|t| t.eq_ignore_ascii_case(kind)) else {
        let accepted = patch::TYPES.join(", ");
        let error = Error::new(Kind::UnsupportedMediaType, format!("Image PATCH expects Content-Type one of: {accepted}"));
        let mut response = http_api::fault::render(FaultStyle::Image, &error, &req.ctx.request_id);
        if let Ok(value) = HeaderValue::from_str(&accepted) {
            response.headers_mut().insert("accept-patch", value);
        }
        return Ok(response);
    };
    let changes = patch::parse(&req.json::<Value>()?, dialect == 0)?;
    json(200, &view(&images, &images.image_update(&req.ctx, req.param("image_id"), changes).await?))
}

pub async fn delete(images: Images, req: Request) -> Result<Response> {
    images.image_delete(&req.ctx, req.param("image_id")).await?;
    empty(204)
}

pub async fn action_deactivate(images: Images, req: Request) -> Result<Response> {
    images.image_deactivate(&req.ctx, req.param("image_id")).await?;
    empty(204)
}

pub async fn action_reactivate(images: Images, req: Request) -> Result<Response> {
    images.image_reactivate(&req.ctx, req.param("image_id")).await?;
    empty(204)
}

pub async fn tag_update(images: Images, req: Request) -> Result<Response> {
    images.tag_add(&req.ctx, req.param("image_id"), req.param("tag_value")).await?;
    empty(204)
}

pub async fn tag_delete(images: Images, req: Request) -> Result<Response> {
    images.tag_remove(&req.ctx, req.param("image_id"), req.param("tag_value")).await?;
    empty(204)
}
