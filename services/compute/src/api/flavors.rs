//! `/flavors` with extra specs and access (compute API reference, "Flavors", "Flavors extra-specs", "Flavors access").

use std::collections::BTreeMap;

use base::{Context, Error, Kind, Result, Timestamp};
use http_api::{Page, Request, Response, Routes, SortDir, Version, empty, json};
use serde_json::{Map, Value, json};
use store::{Dir, Select, Tx, params};

use crate::Compute;
use crate::cpus;
use crate::fields::{self, Field, Fields};
use crate::flavors::{FLAVOR_COLUMNS, Flavor, FlavorDoc, flavor_access_has_in, flavor_fetch_in, flavor_insert_in, flavor_row};

pub fn routes(routes: Routes<Compute>) -> Routes<Compute> {
    routes
        .get("/flavors", index)
        .post("/flavors", create)
        .get("/flavors/detail", detail)
        .get("/flavors/{id}", show)
        .put("/flavors/{id}", update)
        .delete("/flavors/{id}", delete)
        .post("/flavors/{id}/action", action)
        .get("/flavors/{id}/os-flavor-access", access_index)
        .get("/flavors/{id}/os-extra_specs", specs_index)
        .post("/flavors/{id}/os-extra_specs", specs_create)
        .get("/flavors/{id}/os-extra_specs/{key}", specs_show)
        .put("/flavors/{id}/os-extra_specs/{key}", specs_update)
        .delete("/flavors/{id}/os-extra_specs/{key}", specs_delete)
}

const WITH_DESCRIPTION: Version = Version::new(2, 55);
const WITH_EXTRA_SPECS: Version = Version::new(2, 61);
const WITH_VALIDATION: Version = Version::new(2, 86);
/// From here on, `swap` is a number also when it is 0, and unknown query parameters are refused.
const STRICT: Version = Version::new(2, 75);

/// The one place that knows which fields a version shows. `specs`: whether the caller may see extra specs.
pub fn flavor_view(flavor: &Flavor, req: &Request, specs: bool) -> Value {
    let mut view = json!({
        "id": flavor.id,
        "name": flavor.name,
        "ram": flavor.memory_mb,
        "disk": flavor.root_gb,
        "vcpus": flavor.vcpus,
        "swap": if flavor.swap_mb == 0 && req.version < STRICT { json!("") } else { json!(flavor.swap_mb) },
        "OS-FLV-EXT-DATA:ephemeral": flavor.ephemeral_gb,
        "OS-FLV-DISABLED:disabled": flavor.disabled,
        "os-flavor-access:is_public": flavor.is_public,
        "rxtx_factor": flavor.doc.rxtx_factor.unwrap_or(1.0),
        "links": links(flavor, req),
    });
    if req.version >= WITH_DESCRIPTION {
        view["description"] = json!(flavor.doc.description);
    }
    if req.version >= WITH_EXTRA_SPECS && specs {
        view["extra_specs"] = json!(flavor.doc.extra_specs);
    }
    view
}

fn links(flavor: &Flavor, req: &Request) -> Value {
    json!([
        {"rel": "self", "href": format!("{}/v2.1/flavors/{}", req.base_url, flavor.id)},
        {"rel": "bookmark", "href": format!("{}/flavors/{}", req.base_url, flavor.id)},
    ])
}

fn missing(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("Flavor {id} could not be found."))
}

fn flag(allowed: bool) -> Result<()> {
    if allowed { Ok(()) } else { Err(Error::forbidden("not shown")) }
}

impl Compute {
    fn specs_visible(&self, ctx: &Context) -> bool {
        self.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:index", ctx, &[("project_id", ctx.project_id())]).is_ok()
    }

    /// The flavor, if `ctx` may see it: public ones, those of its project, all for administrators.
    pub async fn flavor_show(&self, ctx: &Context, id: &str) -> Result<Flavor> {
        self.core
            .store
            .read(|tx| {
                let flavor = flavor_fetch_in(tx, id)?.ok_or_else(|| missing(id))?;
                let visible = flavor.is_public || ctx.is_admin() || flavor_access_has_in(tx, id, ctx.project_id())?;
                flag(visible).map_err(|_| missing(id))?;
                Ok(flavor)
            })
            .await
    }

    /// Changes what of a flavor may be changed, and returns it as it is then.
    async fn flavor_change(&self, id: &str, change: impl FnOnce(&mut FlavorDoc) -> Result<()> + Send + 'static) -> Result<Flavor> {
        let id = id.to_string();
        self.core
            .store
            .write(move |tx| {
                tx.lock(&format!("compute/flavor/{id}"))?;
                let mut flavor = flavor_fetch_in(tx, &id)?.ok_or_else(|| missing(&id))?;
                change(&mut flavor.doc)?;
                flavor.updated_at = Some(Timestamp::now());
                tx.execute(
                    "UPDATE flavor SET doc = ?2, updated_at = ?3 WHERE id = ?1",
                    params![&id, store::Value::json(&flavor.doc)?, flavor.updated_at],
                )?;
                Ok(flavor)
            })
            .await
    }
}

async fn index(compute: Compute, req: Request) -> Result<Response> {
    list(compute, req, false).await
}

async fn detail(compute: Compute, req: Request) -> Result<Response> {
    list(compute, req, true).await
}

/// What `is_public` asks for: only administrators may look beyond what is public.
fn public_filter(req: &Request) -> Result<Option<bool>> {
    if !req.ctx.is_admin() {
        return Ok(Some(true));
    }
    match req.query.get("is_public") {
        None => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("none") => Ok(None),
        Some(text) => {
            let parsed = http_api::query::parse_bool(text).ok_or_else(|| Error::invalid(format!("Invalid is_public filter [{text}]")))?;
            Ok(Some(parsed))
        }
    }
}

async fn list(compute: Compute, req: Request, detailed: bool) -> Result<Response> {
    const PARAMETERS: [&str; 8] = ["limit", "marker", "is_public", "minRam", "minDisk", "sort_key", "sort_dir", "page_size"];
    if let Some((name, _)) = req.query.0.iter().find(|(name, _)| req.version >= STRICT && !PARAMETERS.contains(&name.as_str())) {
        return Err(Error::invalid(format!("Additional properties are not allowed ('{name}' was unexpected)")));
    }
    let max = compute.core.config.int("api.max_limit");
    let page = Page::from_query(&req.query, max, &[])?;
    let mut order = Vec::new();
    for (key, dir) in &page.sort {
        let column = match key.as_str() {
            "flavorid" | "id" => "id",
            "name" => "name",
            "memory_mb" => "memory_mb",
            "vcpus" => "vcpus",
            "root_gb" => "root_gb",
            "ephemeral_gb" => "ephemeral_gb",
            "swap" => "swap_mb",
            "is_public" => "is_public",
            "disabled" => "disabled",
            "created_at" => "created_at",
            "updated_at" => "updated_at",
            other => return Err(Error::invalid(format!("Invalid input for query parameter sort_key: '{other}'"))),
        };
        order.push((column, if *dir == SortDir::Asc { Dir::Asc } else { Dir::Desc }));
    }
    if !order.iter().any(|(column, _)| *column == "id") {
        order.push(("id", Dir::Asc));
    }
    let (min_ram, min_disk) = (minimum(&req, "minRam")?, minimum(&req, "minDisk")?);
    let public = public_filter(&req)?;
    let ctx = &req.ctx;
    let flavors = compute
        .core
        .store
        .read(|tx| {
            let mut select = Select::new(format!("SELECT {FLAVOR_COLUMNS} FROM flavor")).ge("memory_mb", min_ram).ge("root_gb", min_disk);
            select = match public {
                None => select,
                // A project sees its own private flavors among the public ones.
                Some(true) if !ctx.is_admin() => select.any(|or| {
                    or.eq("is_public", true).cond(
                        "EXISTS (SELECT 1 FROM flavor_access a WHERE a.flavor_id = flavor.id AND a.project_id = ?)",
                        [ctx.project_id().into()],
                    )
                }),
                Some(wanted) => select.eq("is_public", wanted),
            };
            select = select.order(&order).limit(page.fetch_limit(max));
            if let Some(marker) = &page.marker {
                select = select.after(place(tx, marker, &order)?);
            }
            select.fetch(tx, flavor_row)
        })
        .await?;
    let specs = detailed && req.version >= WITH_EXTRA_SPECS && compute.specs_visible(&req.ctx);
    let view = |flavor: &Flavor| {
        if detailed {
            return flavor_view(flavor, &req, specs);
        }
        let mut short = json!({"id": flavor.id, "name": flavor.name, "links": links(flavor, &req)});
        if req.version >= WITH_DESCRIPTION {
            short["description"] = json!(flavor.doc.description);
        }
        short
    };
    let mut body = json!({"flavors": flavors.iter().map(view).collect::<Vec<_>>()});
    if let (Some(limit), Some(last)) = (page.limit, flavors.last()) {
        if flavors.len() as u64 == limit {
            body["flavors_links"] = json!([{"rel": "next", "href": http_api::page::link_with_marker(&req, &last.id, None)}]);
        }
    }
    json(200, &body)
}

fn minimum(req: &Request, name: &str) -> Result<i64> {
    match req.query.get(name) {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| Error::invalid(format!("Invalid {name} filter [{text}]"))),
    }
}

/// Where the marker's flavor stands in the order.
fn place(tx: &Tx, marker: &str, order: &[(&str, Dir)]) -> Result<Vec<store::Value>> {
    let columns: Vec<&str> = order.iter().map(|(column, _)| *column).collect();
    let sql = format!("SELECT {} FROM flavor WHERE id = ?1", columns.join(", "));
    let found = tx.query_opt(&sql, params![marker], |row| (0..columns.len()).map(|i| row.value(i)).collect())?;
    found.ok_or_else(|| Error::invalid(format!("marker [{marker}] not found")))
}

async fn show(compute: Compute, req: Request) -> Result<Response> {
    let flavor = compute.flavor_show(&req.ctx, req.param("id")).await?;
    let specs = compute.specs_visible(&req.ctx);
    json(200, &json!({"flavor": flavor_view(&flavor, &req, specs)}))
}

/// An id that users choose: letters, digits, `. _ -` and inner spaces; null and `auto` ask for a new UUID.
fn flavor_id(f: Field) -> Result<Option<String>> {
    let text = match f.value {
        Value::Null => return Ok(None),
        Value::Number(n) => n.to_string(),
        _ => fields::text_of(0, 255, |c| c.is_ascii_alphanumeric() || " ._-".contains(c), "letters, digits, '.', '_', '-' and spaces")(f)?,
    };
    if text.trim() != text {
        return Err(f.wrong("it neither starts nor ends with a space"));
    }
    Ok(Some(text).filter(|t| !t.is_empty() && t != "auto"))
}

/// A positive number such as 1.0, or its text.
fn factor(f: Field) -> Result<f64> {
    let number = f.value.as_f64().or_else(|| f.value.as_str().and_then(|s| s.parse().ok()));
    number.filter(|n: &f64| n.is_finite() && *n > 0.0 && *n <= 3.4e38).ok_or_else(|| f.wrong("it is not a positive number"))
}

async fn create(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-manage:create", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let flavor = root.need("flavor", |f| {
        let mut of = Fields::of(f)?;
        let large = || fields::integer(1, i64::from(i32::MAX));
        let any = || fields::integer(0, i64::from(i32::MAX));
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        let flavor = Flavor {
            name: of.need("name", fields::name)?,
            id: of.take("id", flavor_id)?.flatten().unwrap_or_else(base::id::uuid),
            memory_mb: count(of.need("ram", large())?),
            vcpus: u32::try_from(of.need("vcpus", large())?).unwrap_or(u32::MAX),
            root_gb: count(of.need("disk", any())?),
            ephemeral_gb: count(of.take("OS-FLV-EXT-DATA:ephemeral", any())?.unwrap_or(0)),
            swap_mb: count(of.take("swap", any())?.unwrap_or(0)),
            is_public: of.take("os-flavor-access:is_public", fields::boolean)?.unwrap_or(true),
            disabled: false,
            created_at: Timestamp::now(),
            updated_at: None,
            doc: FlavorDoc {
                rxtx_factor: of.take("rxtx_factor", factor)?,
                description: of.take_if(req.version >= WITH_DESCRIPTION, "description", flavor_description)?.flatten(),
                extra_specs: BTreeMap::new(),
            },
        };
        of.finish()?;
        Ok(flavor)
    })?;
    root.finish()?;
    let stored = flavor.clone();
    compute
        .core
        .store
        .write(move |tx| {
            if flavor_fetch_in(tx, &stored.id)?.is_some() {
                return Err(Error::exists(format!("Flavor with ID {} already exists.", stored.id)));
            }
            let name = stored.name.clone();
            flavor_insert_in(tx, &stored)
                .map_err(|e| if e.is(Kind::Exists) { Error::exists(format!("Flavor with name {name} already exists.")) } else { e })?;
            // A private flavor is for nobody, its maker's project included, until access is given.
            Ok(())
        })
        .await?;
    let specs = compute.specs_visible(&req.ctx);
    json(200, &json!({"flavor": flavor_view(&flavor, &req, specs)}))
}

fn flavor_description(f: Field) -> Result<Option<String>> {
    fields::nullable(fields::text_of(0, 65535, fields::printable, "printable characters"))(f)
}

async fn update(compute: Compute, req: Request) -> Result<Response> {
    if req.version < WITH_DESCRIPTION {
        return Err(Error::new(Kind::NotFound, "The resource could not be found."));
    }
    compute.core.authorize("compute", "os_compute_api:os-flavor-manage:update", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let description = root.need("flavor", |f| {
        let mut of = Fields::of(f)?;
        let description = of.need("description", flavor_description)?;
        of.finish()?;
        Ok(description)
    })?;
    root.finish()?;
    let flavor = compute
        .flavor_change(req.param("id"), move |doc| {
            doc.description = description;
            Ok(())
        })
        .await?;
    let specs = compute.specs_visible(&req.ctx);
    json(200, &json!({"flavor": flavor_view(&flavor, &req, specs)}))
}

async fn delete(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-manage:delete", &req.ctx, &())?;
    let id = req.param("id").to_string();
    compute
        .core
        .store
        .write(move |tx| {
            tx.execute("DELETE FROM flavor_access WHERE flavor_id = ?1", params![&id])?;
            if tx.execute("DELETE FROM flavor WHERE id = ?1", params![&id])? == 0 { Err(missing(&id)) } else { Ok(()) }
        })
        .await?;
    empty(202)
}

async fn access_view(compute: &Compute, id: &str) -> Result<Response> {
    let id = id.to_string();
    let projects = compute
        .core
        .store
        .read(|tx| {
            let flavor = flavor_fetch_in(tx, &id)?.ok_or_else(|| missing(&id))?;
            if flavor.is_public {
                return Err(Error::new(Kind::NotFound, "Access list not available for public flavors."));
            }
            tx.query("SELECT project_id FROM flavor_access WHERE flavor_id = ?1 ORDER BY project_id", params![&id], |row| row.text(0))
        })
        .await?;
    let rows: Vec<Value> = projects.iter().map(|project| json!({"flavor_id": id, "tenant_id": project})).collect();
    json(200, &json!({"flavor_access": rows}))
}

async fn access_index(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-access", &req.ctx, &())?;
    access_view(&compute, req.param("id")).await
}

async fn action(compute: Compute, req: Request) -> Result<Response> {
    let body = req.object()?;
    let (add, rule) = match body.keys().next().map(String::as_str) {
        Some("addTenantAccess") if body.len() == 1 => (true, "os_compute_api:os-flavor-access:add_tenant_access"),
        Some("removeTenantAccess") if body.len() == 1 => (false, "os_compute_api:os-flavor-access:remove_tenant_access"),
        other => return Err(Error::invalid(format!("There is no such action: {}", other.unwrap_or_default()))),
    };
    compute.core.authorize("compute", rule, &req.ctx, &())?;
    let mut root = Fields::root(&body, req.version);
    let project = root.need(if add { "addTenantAccess" } else { "removeTenantAccess" }, |f| {
        let mut of = Fields::of(f)?;
        let project = of.need("tenant", fields::text(1, 255))?;
        of.finish()?;
        Ok(project)
    })?;
    let id = req.param("id").to_string();
    compute
        .core
        .store
        .write(move |tx| {
            let flavor = flavor_fetch_in(tx, &id)?.ok_or_else(|| missing(&id))?;
            if flavor.is_public {
                let verb = if add { "add access to" } else { "remove access from" };
                return Err(Error::conflict(format!("Can not {verb} a public flavor.")));
            }
            if !add {
                return match tx.execute("DELETE FROM flavor_access WHERE flavor_id = ?1 AND project_id = ?2", params![&id, &project])? {
                    0 => Err(Error::new(Kind::NotFound, format!("Flavor access not found for {id} / {project} combination."))),
                    _ => Ok(()),
                };
            }
            if flavor_access_has_in(tx, &id, &project)? {
                return Err(Error::exists(format!("Flavor access already exists for flavor {id} and project {project} combination.")));
            }
            tx.execute("INSERT INTO flavor_access (flavor_id, project_id) VALUES (?1, ?2)", params![&id, &project]).map(drop)
        })
        .await?;
    access_view(&compute, req.param("id")).await
}

/// Extra specs in a body: short texts under keys of letters, digits and `-_:. `; numbers count as their text.
fn specs(map: &Map<String, Value>, at: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (key, value) in map {
        if !fields::is_metadata_key(key) {
            return Err(Error::invalid(format!(
                "Invalid input for field/attribute {at}. Additional properties are not allowed ('{key}' was unexpected)"
            )));
        }
        let path = format!("{at}.{key}");
        let field = Field { at: &path, value, relaxed: false };
        let text = match value {
            Value::Number(n) => n.to_string(),
            _ => fields::text(0, 255)(field)?,
        };
        found.insert(key.clone(), text);
    }
    Ok(found)
}

/// What extra specs say is looked at since 2.86; before, a server that is made with them fails.
fn validate(req: &Request, specs: &BTreeMap<String, String>) -> Result<()> {
    if req.version >= WITH_VALIDATION { cpus::specs_check(specs) } else { Ok(()) }
}

async fn specs_index(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:index", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let flavor = compute.flavor_show(&req.ctx, req.param("id")).await?;
    json(200, &json!({"extra_specs": flavor.doc.extra_specs}))
}

async fn specs_create(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:create", &req.ctx, &())?;
    let body = req.object()?;
    let mut root = Fields::root(&body, req.version);
    let new = root.need("extra_specs", |f| specs(f.value.as_object().ok_or_else(|| f.wrong("it is not of type 'object'"))?, f.at))?;
    root.finish()?;
    validate(&req, &new)?;
    let answer = json!({"extra_specs": new});
    compute
        .flavor_change(req.param("id"), move |doc| {
            doc.extra_specs.extend(new);
            Ok(())
        })
        .await?;
    json(200, &answer)
}

fn spec_missing(id: &str, key: &str) -> Error {
    Error::new(Kind::NotFound, format!("Flavor {id} has no extra specs with key {key}."))
}

async fn specs_show(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:show", &req.ctx, &[("project_id", req.ctx.project_id())])?;
    let (id, key) = (req.param("id"), req.param("key"));
    let flavor = compute.flavor_show(&req.ctx, id).await?;
    let value = flavor.doc.extra_specs.get(key).ok_or_else(|| spec_missing(id, key))?;
    json(200, &json!({ key: value }))
}

async fn specs_update(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:update", &req.ctx, &())?;
    let key = req.param("key").to_string();
    let body = req.object()?;
    let new = specs(&body, "body")?;
    if body.len() != 1 || !new.contains_key(&key) {
        return Err(Error::invalid("Request body and URI mismatch"));
    }
    validate(&req, &new)?;
    let answer = json!(new);
    compute
        .flavor_change(req.param("id"), move |doc| {
            doc.extra_specs.extend(new);
            Ok(())
        })
        .await?;
    json(200, &answer)
}

async fn specs_delete(compute: Compute, req: Request) -> Result<Response> {
    compute.core.authorize("compute", "os_compute_api:os-flavor-extra-specs:delete", &req.ctx, &())?;
    let (id, key) = (req.param("id").to_string(), req.param("key").to_string());
    compute
        .flavor_change(req.param("id"), move |doc| doc.extra_specs.remove(&key).map(drop).ok_or_else(|| spec_missing(&id, &key)))
        .await?;
    empty(200)
}
