//! What the proxies of other services have in common: until when they are there, whom they serve, how their lists are cut.

use base::{Error, Kind, Result};
use http_api::{Request, Version};

use crate::Compute;

/// From here on clients ask the other services themselves.
const WITHOUT_PROXIES: Version = Version::new(2, 36);

pub fn missing(message: impl Into<String>) -> Error {
    Error::new(Kind::NotFound, message)
}

/// Whether the request's version still has the proxies.
pub fn there(req: &Request) -> Result<()> {
    if req.version >= WITHOUT_PROXIES { Err(missing("The resource could not be found.")) } else { Ok(()) }
}

/// Whether the proxy is there, and compute's own `rule` lets the caller use it. The other service's rules hold besides.
pub fn allowed(compute: &Compute, req: &Request, rule: &str) -> Result<()> {
    there(req)?;
    compute.authorize(rule, &req.ctx, &[("project_id", req.ctx.project_id())])
}

/// A count in the query; of several all must be counts, and the first is meant.
pub fn count(req: &Request, name: &str) -> Result<Option<usize>> {
    let wrong = |text: &str| Error::invalid(format!("Invalid input for query parameters {name}. Value: {text}."));
    let mut counts = req.query.all(name).map(|text| text.parse::<usize>().map_err(|_| wrong(text)));
    let first = counts.next().transpose()?;
    counts.try_for_each(|count| count.map(drop))?;
    Ok(first)
}

/// Which part of a list is asked for: how many are passed over, and how many are shown.
pub fn slice(compute: &Compute, req: &Request) -> Result<(usize, usize)> {
    let most = usize::try_from(compute.core.config.int("api.max_limit")).unwrap_or(usize::MAX);
    let limit = count(req, "limit")?.filter(|n| *n > 0).map_or(most, |n| n.min(most));
    Ok((count(req, "offset")?.unwrap_or(0), limit))
}
