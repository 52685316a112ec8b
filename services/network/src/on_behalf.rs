//! Networks, floating addresses and security groups for the caller of another service: with the rules, quotas and events of the network's own requests.
//!
//! Compute's requests from before 2.36 are answered with these. What they are about is what the network's API shows of it.

use std::collections::HashMap;

use base::{Context, Result};
use serde_json::{Map, Value, json};
use store::{Tx, params};

use crate::attr::Object;
use crate::floatingips::FloatingIp;
use crate::list::Wanted;
use crate::networks::Net;
use crate::row::{self, Resource};
use crate::security_groups::SecurityGroup;
use crate::security_rules::Rule;
use crate::{Network, api};

impl Network {
    /// The networks that the caller may see, as a query of the network's API with these filters finds them.
    pub async fn networks_found(&self, ctx: &Context, filters: &[(&str, &str)]) -> Result<Vec<Map<String, Value>>> {
        self.found::<Net>(ctx, filters).await
    }

    pub async fn network_show(&self, ctx: &Context, id: &str) -> Result<Map<String, Value>> {
        self.shown::<Net>(ctx, id).await
    }

    /// As [`Network::networks_found`], of floating addresses.
    pub async fn floating_ips_found(&self, ctx: &Context, filters: &[(&str, &str)]) -> Result<Vec<Map<String, Value>>> {
        self.found::<FloatingIp>(ctx, filters).await
    }

    pub async fn floating_ip_show(&self, ctx: &Context, id: &str) -> Result<Map<String, Value>> {
        self.shown::<FloatingIp>(ctx, id).await
    }

    /// Takes an address of an external network.
    pub async fn floating_ip_create(&self, ctx: &Context, network: &str) -> Result<Map<String, Value>> {
        let body = Object::from_iter([("floating_network_id".to_string(), json!(network))]);
        self.written(ctx, move |net, tx, ctx| api::create_one::<FloatingIp>(net, tx, ctx, &body)).await
    }

    pub async fn floating_ip_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let id = id.to_string();
        self.written(ctx, move |net, tx, ctx| api::delete_one::<FloatingIp>(net, tx, ctx, &id, None)).await
    }

    async fn found<T: Resource>(&self, ctx: &Context, filters: &[(&str, &str)]) -> Result<Vec<Object>> {
        let pairs = filters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let wanted = Wanted::read(T::KIND, &http_api::Query(pairs))?;
        Ok(self.core().store.read(|tx| api::page::<T>(self, tx, ctx, &wanted)).await?.items)
    }

    async fn shown<T: Resource>(&self, ctx: &Context, id: &str) -> Result<Object> {
        let read = |tx: &Tx| Ok(api::view(self, ctx, T::KIND, api::seen::<T>(self, tx, ctx, id)?.1, &[]));
        self.core().store.read(read).await
    }

    /// A project's groups, or everybody's, as far as the caller may see them; by age. With its default group, which is made.
    pub async fn security_groups_list(
        &self,
        ctx: &Context,
        project: Option<&str>,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<Map<String, Value>>> {
        if !ctx.project_id().is_empty() {
            api::default_group(self, ctx).await?;
        }
        let read = |tx: &Tx| {
            let groups: Vec<SecurityGroup> = match project {
                Some(project) => row::list(tx, "project_id = ?1", params![project])?,
                None => row::list(tx, "1 = 1", params![])?,
            };
            views(self, tx, ctx, &groups, offset, limit)
        };
        self.core().store.read(read).await
    }

    /// The groups with these ids that the caller may see.
    pub async fn security_groups_with(&self, ctx: &Context, ids: &[String]) -> Result<Vec<Map<String, Value>>> {
        let read = |tx: &Tx| views(self, tx, ctx, &row::list_in::<SecurityGroup>(tx, "id", ids)?, 0, usize::MAX);
        self.core().store.read(read).await
    }

    pub async fn security_group_show(&self, ctx: &Context, id: &str) -> Result<Map<String, Value>> {
        let read = |tx: &Tx| {
            let (_, object) = api::seen::<SecurityGroup>(self, tx, ctx, id)?;
            with_peers(self, tx, ctx, api::view(self, ctx, SecurityGroup::KIND, object, &[]))
        };
        self.core().store.read(read).await
    }

    pub async fn security_group_create(&self, ctx: &Context, name: &str, description: &str) -> Result<Map<String, Value>> {
        let body = named(name, description);
        self.written(ctx, move |net, tx, ctx| with_peers(net, tx, ctx, api::create_one::<SecurityGroup>(net, tx, ctx, &body)?)).await
    }

    pub async fn security_group_update(&self, ctx: &Context, id: &str, name: &str, description: &str) -> Result<Map<String, Value>> {
        let (id, change) = (id.to_string(), named(name, description));
        let work = move |net: &Network, tx: &Tx, ctx: &Context| {
            with_peers(net, tx, ctx, api::update_one::<SecurityGroup>(net, tx, ctx, &id, &change, None)?)
        };
        self.written(ctx, work).await
    }

    pub async fn security_group_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let id = id.to_string();
        self.written(ctx, move |net, tx, ctx| api::delete_one::<SecurityGroup>(net, tx, ctx, &id, None)).await
    }

    /// Makes a rule as a body of the network's API describes it.
    pub async fn security_group_rule_create(&self, ctx: &Context, body: Map<String, Value>) -> Result<Map<String, Value>> {
        self.written(ctx, move |net, tx, ctx| api::create_one::<Rule>(net, tx, ctx, &body)).await
    }

    pub async fn security_group_rule_delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let id = id.to_string();
        self.written(ctx, move |net, tx, ctx| api::delete_one::<Rule>(net, tx, ctx, &id, None)).await
    }

    async fn written<T: Send + 'static>(
        &self,
        ctx: &Context,
        work: impl Fn(&Network, &Tx, &Context) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (net, ctx) = (self.clone(), ctx.clone());
        self.core().store.write(move |tx| work(&net, tx, &ctx)).await
    }
}

fn named(name: &str, description: &str) -> Object {
    Object::from_iter([("name".to_string(), json!(name)), ("description".to_string(), json!(description))])
}

fn with_peers(net: &Network, tx: &Tx, ctx: &Context, group: Object) -> Result<Object> {
    let mut one = [group];
    peers_named(net, tx, ctx, &mut one)?;
    let [group] = one;
    Ok(group)
}

fn views(net: &Network, tx: &Tx, ctx: &Context, groups: &[SecurityGroup], offset: usize, limit: usize) -> Result<Vec<Object>> {
    let mut page = Vec::new();
    for group in groups {
        let object = row::object(group)?;
        if api::allowed(net, ctx, "get_security_group", &object) {
            page.push(object);
        }
    }
    let mut page: Vec<Object> = page.into_iter().skip(offset).take(limit).collect();
    SecurityGroup::decorate(net, tx, &mut page)?;
    let mut page: Vec<Object> = page.into_iter().map(|object| api::view(net, ctx, SecurityGroup::KIND, object, &[])).collect();
    peers_named(net, tx, ctx, &mut page)?;
    Ok(page)
}

/// Says in each rule that names another group which that is (`remote_group`), where the caller may see it.
fn peers_named(net: &Network, tx: &Tx, ctx: &Context, groups: &mut [Object]) -> Result<()> {
    let mut ids: Vec<String> = Vec::new();
    let peer = |rule: &Value| rule["remote_group_id"].as_str().map(str::to_string);
    for group in groups.iter() {
        ids.extend(group.get("security_group_rules").and_then(Value::as_array).into_iter().flatten().filter_map(peer));
    }
    ids.sort_unstable();
    ids.dedup();
    let mut known = HashMap::new();
    for group in row::list_in::<SecurityGroup>(tx, "id", &ids)? {
        if api::allowed(net, ctx, "get_security_group", &row::object(&group)?) {
            known.insert(group.common.id.clone(), json!({"name": group.common.name, "tenant_id": group.common.project_id}));
        }
    }
    for rule in groups.iter_mut().filter_map(|g| g.get_mut("security_group_rules")).filter_map(Value::as_array_mut).flatten() {
        if let Some(seen) = peer(rule).and_then(|id| known.get(&id)) {
            rule["remote_group"] = seen.clone();
        }
    }
    Ok(())
}
