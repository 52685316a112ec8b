//! Actions of routers.

use base::{Context, Result};
use http_api::{Request, Response, json};
use serde_json::json;
use store::Tx;

use super::{access, body_of, decorated, object_of, seen, view};
use crate::attr::Object;
use crate::routers::{KIND, Router};
use crate::{Network, interfaces};

/// The action's rule on the router, then the action, in one transaction.
async fn act<R: Send + 'static>(
    net: &Network,
    req: &Request,
    rule: &'static str,
    f: impl FnOnce(&Network, &Tx, &Context, Router) -> Result<R> + Send + 'static,
) -> Result<R> {
    let (handle, ctx, id) = (net.clone(), req.ctx.clone(), req.param("id").to_string());
    net.core()
        .store
        .write(move |tx| {
            let (router, object) = seen::<Router>(&handle, tx, &ctx, &id)?;
            access::require(&handle, &ctx, rule, &object)?;
            f(&handle, tx, &ctx, router)
        })
        .await
}

pub async fn action_add_router_interface(net: Network, req: Request) -> Result<Response> {
    let body = object_of(&req)?;
    let answer = act(&net, &req, "add_router_interface", move |net, tx, ctx, router| interfaces::add(net, tx, ctx, router, &body)).await?;
    json(200, &answer)
}

pub async fn action_remove_router_interface(net: Network, req: Request) -> Result<Response> {
    let body = object_of(&req)?;
    let answer =
        act(&net, &req, "remove_router_interface", move |net, tx, ctx, router| interfaces::remove(net, tx, ctx, router, &body)).await?;
    json(200, &answer)
}

async fn routes_change(net: Network, req: Request, rule: &'static str, adding: bool) -> Result<Response> {
    let body = body_of(&KIND, &req)?;
    let object: Object = act(&net, &req, rule, move |net, tx, ctx, router| {
        let router = interfaces::routes_change(net, tx, ctx, router, &body, adding)?;
        Ok(view(net, ctx, &KIND, decorated(net, tx, &router)?, &[]))
    })
    .await?;
    json(200, &json!({"router": object}))
}

pub async fn action_add_extraroutes(net: Network, req: Request) -> Result<Response> {
    routes_change(net, req, "add_extraroutes", true).await
}

pub async fn action_remove_extraroutes(net: Network, req: Request) -> Result<Response> {
    routes_change(net, req, "remove_extraroutes", false).await
}
