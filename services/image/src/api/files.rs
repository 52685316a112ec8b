//! `/v2/images/{image_id}/file`: content in and out, both streamed.

use base::{Error, Kind, Result};
use http_api::response::{set_header, with_type};
use http_api::{Request, Response, empty};

use crate::Images;
use crate::uploads::{Goal, Incoming};

const OCTETS: &str = "application/octet-stream";

/// Size as announced; none: not said.
fn declared(req: &Request) -> Result<Option<u64>> {
    let Some(text) = req.header("x-openstack-image-size").or_else(|| req.header("content-length")) else { return Ok(None) };
    let size = text.trim().parse();
    size.map(Some).map_err(|_| Error::invalid(format!("Invalid or missing image size in request headers: '{text}'.")))
}

async fn receive(images: Images, mut req: Request, goal: Goal) -> Result<Response> {
    let kind = req.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(OCTETS) {
        return Err(Error::new(Kind::UnsupportedMediaType, format!("Invalid content type '{kind}': {OCTETS} is expected.")));
    }
    let declared = declared(&req)?;
    let waits = req.header("expect").is_some();
    let named = req.header("x-image-meta-store").filter(|store| !store.is_empty());
    let store = images.stores().named(named.unwrap_or(images.stores().default()))?.clone();
    if store.is_read_only() {
        return Err(store.refusal());
    }
    let token = req.token.clone();
    let (incoming, body) = (Incoming { goal, store, declared, token }, req.upload());
    images.content_upload(&req.ctx, req.param("image_id"), incoming, waits, body).await?;
    empty(204)
}

pub async fn upload(images: Images, req: Request) -> Result<Response> {
    receive(images, req, Goal::Keep).await
}

pub async fn stage(images: Images, req: Request) -> Result<Response> {
    receive(images, req, Goal::Stage).await
}

pub async fn download(images: Images, req: Request) -> Result<Response> {
    let prefer: Vec<&str> = req.query.all("prefer").flat_map(|names| names.split(',')).map(str::trim).filter(|n| !n.is_empty()).collect();
    let (image, places) = images.content_find(&req.ctx, req.param("image_id"), &prefer).await?;
    let Some(size) = image.size.filter(|_| !image.locations.is_empty()) else { return empty(204) };
    let range = match (req.header("range"), req.header("content-range")) {
        (Some(range), _) => Some(range_of(range, size)?),
        (None, Some(range)) => Some(content_range_of(range, size)?),
        (None, None) => None,
    };
    let (start, length) = range.unwrap_or((0, size));
    let body = images.content_read(&req.ctx, &image, &places, start, length).await?;
    let mut response = with_type(if range.is_some() { 206 } else { 200 }, OCTETS, body);
    set_header(&mut response, "content-length", &length.to_string());
    if range.is_some() {
        set_header(&mut response, "content-range", &format!("bytes {start}-{}/{size}", start + length.saturating_sub(1)));
    }
    if let Some(checksum) = &image.checksum {
        set_header(&mut response, "content-md5", checksum);
    }
    Ok(response)
}

fn unsatisfiable(text: impl Into<String>) -> Error {
    Error::invalid(text).with_status(416)
}

/// `bytes=first-last`, `bytes=first-` or `bytes=-count`: start and length within `size`.
fn range_of(header: &str, size: u64) -> Result<(u64, u64)> {
    if header.contains(',') {
        return Err(Error::invalid(
            "Requests with multiple ranges are not supported. You may make multiple single-range requests instead.",
        ));
    }
    let malformed = || unsatisfiable("Invalid Range header.");
    let (unit, range) = header.split_once('=').ok_or_else(malformed)?;
    let (first, last) = range.trim().split_once('-').ok_or_else(malformed)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Err(malformed());
    }
    let number = |text: &str| -> Result<u64> { text.trim().parse().map_err(|_| malformed()) };
    let (start, end) = match (first.trim(), last.trim()) {
        ("", count) => {
            let count = number(count)?;
            if count == 0 {
                return Err(malformed());
            }
            (size.saturating_sub(count), size)
        }
        (first, "") => (number(first)?, size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(malformed());
            }
            (first, last.saturating_add(1).min(size))
        }
    };
    within(start, end, size)
}

/// Upstream's old form of asking: `Content-Range: bytes first-last/size` in the request.
fn content_range_of(header: &str, size: u64) -> Result<(u64, u64)> {
    let malformed = || unsatisfiable("Invalid Content-Range header.");
    let (range, total) = header.trim().strip_prefix("bytes ").and_then(|r| r.split_once('/')).ok_or_else(malformed)?;
    let (first, last) = range.split_once('-').ok_or_else(malformed)?;
    let number = |text: &str| -> Result<u64> { text.trim().parse().map_err(|_| malformed()) };
    let (first, last) = (number(first)?, number(last)?);
    let fits = total.trim() == "*" || number(total)? >= last;
    if last < first || !fits || last >= size {
        return Err(malformed());
    }
    within(first, last.saturating_add(1), size)
}

fn within(start: u64, end: u64, size: u64) -> Result<(u64, u64)> {
    if start >= size {
        let text = "Invalid start position in Range header. Start position MUST be in the inclusive range";
        return Err(unsatisfiable(format!("{text} [0, {}].", size.saturating_sub(1))));
    }
    Ok((start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, wanted) in
            [("bytes=0-4", (0, 5)), ("bytes=4-", (4, 6)), ("bytes=-3", (7, 3)), ("bytes=-30", (0, 10)), ("bytes=8-99", (8, 2))]
        {
            assert_eq!(range_of(header, 10).unwrap(), wanted, "{header}");
        }
        for header in ["bytes=10-", "bytes=5-4", "bytes=a-b", "lines=0-1", "bytes", "bytes=-0", "bytes=--1", "bytes=-"] {
            assert_eq!(range_of(header, 10).unwrap_err().status(), Some(416), "{header}");
        }
        assert_eq!(range_of("bytes=0-1,3-4", 10).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(range_of("bytes=0-", 0).unwrap_err().status(), Some(416));
        assert_eq!(content_range_of("bytes 1-4/10", 10).unwrap(), (1, 4));
        assert_eq!(content_range_of("bytes 1-40/*", 10).unwrap_err().status(), Some(416));
    }
}
