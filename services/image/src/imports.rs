//! Imports: content that is brought by an operation of ours instead of by one long request.

use base::{Context, Error, Result};
use serde_json::{Map, Value, json};
use task::New;

use crate::db::images as db;
use crate::limits::Resource;
use crate::model::{Image, Status};
use crate::remote::Remote;
use crate::tasks::{self, Task};
use crate::uploads::formats_given;
use crate::{Images, KIND, op};

/// The methods of `POST /v2/images/{id}/import`.
pub const METHODS: [&str; 4] = ["glance-direct", "web-download", "copy-image", "glance-download"];

/// Properties by which an import shows itself.
pub const TASK: &str = "os_glance_import_task";
pub const IMPORTING: &str = "os_glance_importing_to_stores";
pub const FAILED: &str = "os_glance_failed_import";

/// What a request asks for.
#[derive(Debug)]
pub struct Import {
    pub method: String,
    pub uri: Option<String>,
    /// Of `glance-download`.
    pub remote: Option<Remote>,
    /// None: the default one.
    pub stores: Option<Vec<String>>,
    pub all_stores: bool,
    pub all_must_succeed: bool,
    /// As it came, for the task.
    pub body: Value,
}

impl Import {
    /// Reads the request's body; `header` is the store that it names.
    pub fn parse(body: Map<String, Value>, header: Option<&str>) -> Result<Import> {
        let wrong = |text: &str| Err(Error::invalid(text));
        let Some(method) = body.get("method") else { return wrong("Import request requires a 'method' field.") };
        let Some(name) = method.get("name") else { return wrong("Import request requires a 'name' field.") };
        let name = name.as_str().unwrap_or_default();
        if !METHODS.contains(&name) {
            return Err(Error::invalid(format!("Unknown import method name '{name}'.")));
        }
        let flag = |field: &str, default: bool| match body.get(field) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(Error::invalid(format!("'{field}' must be boolean value only"))),
        };
        let (all_stores, all_must_succeed) = (flag("all_stores", false)?, flag("all_stores_must_succeed", true)?);
        let listed = match body.get("stores") {
            None => None,
            Some(Value::Array(stores)) => {
                let names: Option<Vec<String>> = stores.iter().map(|s| s.as_str().map(str::to_string)).collect();
                let Some(names) = names else { return wrong("'stores' must be a list of names") };
                Some(names)
            }
            Some(_) => return wrong("'stores' must be a list of names"),
        };
        let stores = match (listed, all_stores, header) {
            (Some(_), true, _) => return wrong("Only one of 'all_stores' and 'stores' can be given"),
            (Some(_), false, Some(_)) | (None, true, Some(_)) => {
                return wrong("Stores are named in the body or in the header 'x-image-meta-store', not in both");
            }
            (Some(names), false, None) => Some(names),
            (None, false, Some(name)) => Some(vec![name.to_string()]),
            (None, _, None) => None,
        };
        let remote = if name == "glance-download" { Some(Remote::parse(method)?) } else { None };
        let uri = method.get("uri").and_then(Value::as_str).map(str::to_string);
        Ok(Import { method: name.to_string(), uri, remote, stores, all_stores, all_must_succeed, body: Value::Object(body) })
    }
}

/// Submits the import of an image that is as it was read.
pub fn submission(
    images: Images,
    ctx: Context,
    image: Image,
    task: Task,
    params: op::Params,
) -> impl FnOnce(&store::Tx) -> Result<()> + Send {
    move |tx| images.import_submit_in(tx, &ctx, &image.id, image.status, &task, params)
}

impl Images {
    /// Starts an import, unless there is nothing to do. `token`: the caller's, for images of other regions.
    pub async fn image_import(&self, ctx: &Context, id: &str, import: Import, token: Option<&str>) -> Result<()> {
        let copying = import.method == "copy-image";
        let rule = if copying { "copy_image" } else { "modify_image" };
        let image = self.image_for(ctx, id, rule).await?;
        self.import_status(&image, &import.method).await?;
        formats_given(&image, "import").map_err(|error| Error::conflict(error.message().to_string()))?;
        let stores = self.import_stores(&image, &import)?;
        if stores.is_empty() {
            return self.import_nothing(image.id).await;
        }
        if import.method == "web-download" {
            self.0.sources.check(import.uri.as_deref().unwrap_or_default())?;
        }
        let mut remote = import.remote;
        if let Some(remote) = &mut remote {
            remote.token = self.token_seal(token.unwrap_or_default())?;
        }
        // Another copy of what was verified is not verified again.
        let signed = if copying { None } else { self.signature_expected(token, &image).await? };
        let input = json!({"image_id": image.id, "import_req": import.body, "backend": stores});
        let task = Task::new("api_image_import", ctx, &image.id, input);
        let params = op::Params {
            task: task.id.clone(),
            method: import.method,
            uri: import.uri,
            stores,
            all_must_succeed: import.all_must_succeed,
            validation: None,
            remote,
            signed,
        };
        self.core().store.write(submission(self.clone(), ctx.clone(), image, task, params)).await
    }

    /// All stores have the image: clients that wait for the copies see that none is left to be made.
    async fn import_nothing(&self, id: String) -> Result<()> {
        let marked = self.core().store.write(move |tx| {
            let image = db::image_fetch(tx, &id, "")?.ok_or_else(|| crate::images::not_found(&id))?;
            if image.properties.contains_key(TASK) {
                return Ok(());
            }
            db::property_set(tx, &id, IMPORTING, "")?;
            db::property_set(tx, &id, FAILED, "")
        });
        marked.await
    }

    /// Locks the image for the import and submits it. The image must be in `status` still.
    pub(crate) fn import_submit_in(
        &self,
        tx: &store::Tx,
        ctx: &Context,
        id: &str,
        status: Status,
        task: &Task,
        params: op::Params,
    ) -> Result<()> {
        let now = db::image_fetch(tx, id, "")?.ok_or_else(|| crate::images::not_found(id))?;
        self.enforce_in(tx, ctx.project_id(), Resource::SizeTotal, 0)?;
        if now.properties.contains_key(TASK) {
            return Err(Error::conflict("Image has active task"));
        }
        if now.status != status {
            return Err(Error::conflict(format!("Image {id} is now {}.", now.status.as_str())));
        }
        db::property_set(tx, id, TASK, &task.id)?;
        tasks::task_insert_in(tx, task)?;
        let params = serde_json::to_value(params).map_err(|error| Error::internal("parameters of an import").caused_by(error))?;
        let owner = now.owner.unwrap_or_default();
        self.core().tasks.submit(tx, New::new(op::KIND, "image", id).project(owner).context(ctx.clone()).params(params))?;
        Ok(())
    }

    /// Whether the image can be the target of this method.
    async fn import_status(&self, image: &Image, method: &str) -> Result<()> {
        let conflict = |text: &str| Err(Error::conflict(text));
        match (method, image.status) {
            ("copy-image", Status::Active) => Ok(()),
            ("copy-image", _) => conflict("Only images with status active can be targeted for copying"),
            (_, Status::Active) => conflict("Image with status active cannot be target for import"),
            ("glance-direct", Status::Uploading) => {
                let staged = self.core().store.read(|tx| db::staged_fetch(tx, &image.id)).await?;
                staged.map(drop).ok_or_else(|| Error::conflict("The content of the image is still being staged"))
            }
            ("glance-direct", _) => conflict("Image needs to be staged before 'glance-direct' method can be used"),
            (_, Status::Queued) => Ok(()),
            (method, _) => Err(Error::conflict(format!("Image needs to be in 'queued' state to use '{method}' method"))),
        }
    }

    /// Which stores the content goes to; those that have it already are left out when all were asked for.
    fn import_stores(&self, image: &Image, import: &Import) -> Result<Vec<String>> {
        let known = |id: &String| match self.stores().find(id) {
            None => Err(Error::conflict(format!("Store '{id}' is not configured."))),
            Some(store) if store.is_read_only() => Err(Error::conflict(store.refusal().message().to_string())),
            Some(_) => Ok(()),
        };
        let mut stores = match (&import.stores, import.all_stores) {
            (_, true) => self.stores().all().iter().filter(|store| !store.is_read_only()).map(|store| store.id.clone()).collect(),
            (Some(names), false) if !names.is_empty() => names.clone(),
            _ => vec![self.stores().default().to_string()],
        };
        stores.iter().try_for_each(known)?;
        let mut seen = std::collections::HashSet::new();
        stores.retain(|id| seen.insert(id.clone()));
        if import.method == "copy-image" {
            let has = |id: &str| image.locations.iter().any(|location| location.store == id);
            if import.all_stores {
                stores.retain(|id| !has(id));
            } else if let Some(there) = stores.iter().find(|id| has(id)) {
                return Err(Error::invalid(format!("Image is already present at store '{there}'")));
            }
        }
        Ok(stores)
    }

    /// `POST /v2/tasks` of type `import`: makes an image and brings its content.
    pub async fn task_create(&self, ctx: &Context, token: Option<&str>, body: Map<String, Value>) -> Result<Task> {
        self.core().authorize(KIND, "tasks_api_access", ctx, &[("project_id", ctx.project_id())])?;
        self.core().authorize(KIND, "add_task", ctx, &())?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_string);
        match body.get("type") {
            None => return Err(Error::invalid("Task type is required")),
            Some(Value::String(kind)) if kind == "import" => {}
            Some(other) => return Err(Error::invalid(format!("Invalid task type: {other}. Only 'import' is made by this request."))),
        }
        let Some(Value::Object(input)) = body.get("input") else { return Err(Error::invalid("Task input is required")) };
        let uri = text(input.get("import_from")).ok_or_else(|| Error::invalid("Input does not contain 'import_from' field"))?;
        let format =
            text(input.get("import_from_format")).ok_or_else(|| Error::invalid("Input does not contain 'import_from_format' field"))?;
        let Some(Value::Object(properties)) = input.get("image_properties") else {
            return Err(Error::invalid("Input does not contain 'image_properties' field"));
        };
        self.0.sources.check(&uri)?;
        let mut properties = properties.clone();
        properties.entry("disk_format").or_insert(format.into());
        properties.entry("container_format").or_insert("bare".into());
        let image = self.image_draft(ctx, properties)?;
        let signed = self.signature_expected(token, &image).await?;
        let task = Task::new("import", ctx, &image.id, Value::Object(input.clone()));
        let stores = vec![self.stores().default().to_string()];
        let params = op::Params {
            task: task.id.clone(),
            method: "web-download".into(),
            uri: Some(uri),
            stores,
            all_must_succeed: true,
            validation: None,
            remote: None,
            signed,
        };
        let (this, ctx, stored) = (self.clone(), ctx.clone(), task.clone());
        let written = self.core().store.write(move |tx| {
            this.image_insert_in(tx, &ctx, &image)?;
            this.import_submit_in(tx, &ctx, &image.id, Status::Queued, &stored, params)
        });
        written.await?;
        Ok(task)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn anything() -> impl Strategy<Value = Value> {
        let words = ["glance-direct", "web-download", "copy-image", "glance-download", "http://x/", "local", ""];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(words.to_vec()).prop_map(Value::from),
        ];
        let names = ["name", "uri", "glance_region", "glance_image_id", "glance_service_interface"];
        leaf.prop_recursive(2, 8, 4, move |inner| {
            let members = prop::collection::btree_map(prop::sample::select(names.to_vec()), inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..3).prop_map(Value::Array),
                members.prop_map(|members| Value::Object(members.into_iter().map(|(name, value)| (name.to_string(), value)).collect())),
            ]
        })
    }

    proptest! {
        /// Whatever is taken has a method that there is, and its stores from one place only.
        #[test]
        fn bodies(
            method in anything(),
            stores in prop::option::of(anything()),
            all in prop::option::of(anything()),
            must in prop::option::of(anything()),
            header in prop::option::of("[a-z]{1,3}"),
        ) {
            let given = [("method", Some(method)), ("stores", stores), ("all_stores", all), ("all_stores_must_succeed", must)];
            let body: Map<String, Value> = given.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect();
            if let Ok(import) = Import::parse(body.clone(), header.as_deref()) {
                prop_assert!(METHODS.contains(&import.method.as_str()));
                prop_assert_eq!(import.remote.is_some(), import.method == "glance-download");
                let places = [import.all_stores, header.is_some(), body.contains_key("stores")];
                prop_assert!(places.iter().filter(|given| **given).count() <= 1);
                prop_assert_eq!(import.stores.is_some(), places[1] || places[2]);
            }
        }
    }
}
