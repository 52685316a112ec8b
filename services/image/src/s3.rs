//! Content in a bucket of an object store that speaks S3: an object for each content, named by its SHA-256.
//!
//! Requests are signed by ourselves (AWS Signature Version 4), with the hash of what they carry: the store refuses what arrives
//! changed. What comes back is verified by whoever reads it.

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use base::error::Internal;
use base::{Error, Result, Timestamp};
use futures_util::TryStreamExt;
use hmac::{Hmac, Mac};
use reqwest::{Client, Method, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::content::{Facts, hex, receive};

/// For a connection, and between two pieces of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Larger content goes in parts of this many MiB, unless the address says otherwise; stores take 5 to 5,120, and 10,000 parts.
const PART: u64 = 1024;
/// An answer that is no content is not larger.
const ANSWER: usize = 4 << 20;

/// A bucket, and who may use it.
#[derive(Clone)]
pub struct Bucket {
    /// `http://host:port/bucket`.
    url: String,
    /// As it is signed: `host:port`.
    host: String,
    bucket: String,
    region: String,
    access: String,
    secret: String,
    part: u64,
    client: Client,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.url)
    }
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    // It takes keys of any length.
    let Ok(mut mac) = <Hmac<Sha256> as Mac>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// What a query has, in the order in which it is signed.
type Query<'a> = &'a [(&'a str, &'a str)];

fn query(pairs: Query<'_>) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", http_api::query::encode(value))).collect();
    pairs.join("&")
}

/// The text of the first element of this name in an answer.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

impl Bucket {
    /// `url` is that of the bucket, with `?region=NAME` where that is not `us-east-1`, and `part=MIB`; `credentials` are `access:secret`.
    pub fn of(url: &str, credentials: &str) -> std::result::Result<Bucket, &'static str> {
        // Ours is the only cryptography linked in; installed twice is as good as once.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let parsed = reqwest::Url::parse(url).map_err(|_| "is no URL")?;
        let host = parsed.host_str().ok_or("has no host")?;
        let host = parsed.port().map_or(host.to_string(), |port| format!("{host}:{port}"));
        let bucket = parsed.path().trim_matches('/').to_string();
        if bucket.is_empty() || bucket.contains('/') {
            return Err("does not end with the name of a bucket");
        }
        let region = parsed.query_pairs().find(|(name, _)| name == "region").map_or("us-east-1".into(), |(_, value)| value.to_string());
        let part = parsed.query_pairs().find(|(name, _)| name == "part").map_or(Ok(PART), |(_, value)| value.parse());
        let part = part.ok().filter(|part| (5..=5120).contains(part)).ok_or("has parts that are not of 5 to 5120 MiB")? << 20;
        let (access, secret) = credentials.trim().split_once(':').ok_or("has credentials that are not access:secret")?;
        let client = Client::builder().connect_timeout(PATIENCE).read_timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|_| "cannot be asked")?;
        let url = format!("{}://{host}/{bucket}", parsed.scheme());
        Ok(Bucket { url, host, bucket, region, access: access.into(), secret: secret.into(), part, client })
    }

    /// Bytes that go at once.
    pub fn part(&self) -> u64 {
        self.part
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    fn signature(&self, now: Timestamp, method: &Method, key: &str, pairs: Query<'_>, payload: &str) -> (String, String) {
        let time: String = now.iso().chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let day = &time[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let path = if key.is_empty() { format!("/{}", self.bucket) } else { format!("/{}/{key}", self.bucket) };
        let canonical = format!(
            "{method}\n{path}\n{}\nhost:{}\nx-amz-content-sha256:{payload}\nx-amz-date:{time}\n\nhost;x-amz-content-sha256;x-amz-date\n{payload}",
            query(pairs),
            self.host
        );
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = keyed(format!("AWS4{}", self.secret).as_bytes(), day);
        for word in [self.region.as_str(), "s3", "aws4_request"] {
            key = keyed(&key, word);
        }
        let signature = hex(&keyed(&key, &to_sign));
        let signed = "host;x-amz-content-sha256;x-amz-date";
        let header = format!("AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={signed},Signature={signature}", self.access);
        (time, header)
    }

    async fn send(&self, method: Method, key: &str, pairs: Query<'_>, body: reqwest::Body, payload: &str, length: u64) -> Result<Response> {
        let (time, authorization) = self.signature(Timestamp::now(), &method, key, pairs, payload);
        let mut url = self.url.clone();
        if !key.is_empty() {
            url = format!("{url}/{key}");
        }
        if !pairs.is_empty() {
            url = format!("{url}?{}", query(pairs));
        }
        let request = self.client.request(method, url).header("x-amz-date", time).header("x-amz-content-sha256", payload);
        let request = request.header("authorization", authorization).header("content-length", length).body(body);
        request.send().await.map_err(|e| self.unavailable(e))
    }

    fn unavailable(&self, error: reqwest::Error) -> Error {
        Error::unavailable(format!("The object store at {} does not answer.", self.host)).caused_by(error.without_url())
    }

    /// Sends a small request; its answer when that is good, none when there is no such object.
    async fn ask(&self, method: Method, key: &str, pairs: Query<'_>, body: String) -> Result<Option<String>> {
        let (payload, length) = (hex(&Sha256::digest(&body)), body.len() as u64);
        let answer = self.send(method, key, pairs, body.into(), &payload, length).await?;
        self.answer(answer).await
    }

    async fn answer(&self, mut answer: Response) -> Result<Option<String>> {
        let status = answer.status();
        let mut text = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|e| self.unavailable(e))? {
            if text.len() + piece.len() > ANSWER {
                return Err(Error::unavailable(format!("The object store at {} answers with too much.", self.host)));
            }
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        // Some answers come with 200 before it is known how they end.
        let code = element(&text, "Code").unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND if code != "NoSuchBucket" => Ok(None),
            good if good.is_success() && !text.contains("<Error>") => Ok(Some(text)),
            bad => Err(Error::unavailable(format!("The object store at {} refuses: {} {code}.", self.host, bad.as_u16()))),
        }
    }

    fn expected(&self, answer: Option<String>) -> Result<String> {
        answer.ok_or_else(|| Error::unavailable(format!("The object store at {} has lost what it was sent.", self.host)))
    }

    /// Keeps the content of a file. Twice is as once.
    pub async fn put(&self, file: &Path, facts: &Facts) -> Result<()> {
        if facts.size > self.part {
            return self.put_in_parts(file, facts).await;
        }
        let answer = self.send_piece(file, 0, facts.size, &facts.sha256, &[], &facts.sha256).await?;
        self.answer(answer).await.and_then(|answer| self.expected(answer)).map(drop)
    }

    async fn send_piece(&self, file: &Path, start: u64, length: u64, key: &str, pairs: Query<'_>, payload: &str) -> Result<Response> {
        let mut source = tokio::fs::File::open(file).await.internal("opening image content")?;
        source.seek(SeekFrom::Start(start)).await.internal("reading image content")?;
        let body = reqwest::Body::wrap_stream(ReaderStream::with_capacity(source.take(length), 256 << 10));
        self.send(Method::PUT, key, pairs, body, payload, length).await
    }

    async fn put_in_parts(&self, file: &Path, facts: &Facts) -> Result<()> {
        let key = facts.sha256.as_str();
        let begun = self.ask(Method::POST, key, &[("uploads", "")], String::new()).await?;
        let begun = self.expected(begun)?;
        let id = element(&begun, "UploadId").ok_or_else(|| Error::unavailable("The object store begins no upload."))?;
        let sent = self.send_parts(file, facts, id).await;
        if sent.is_err() {
            // Parts that nobody puts together would be kept, and paid for.
            let _ = self.ask(Method::DELETE, key, &[("uploadId", id)], String::new()).await;
        }
        sent
    }

    async fn send_parts(&self, file: &Path, facts: &Facts, id: &str) -> Result<()> {
        let mut whole = String::from("<CompleteMultipartUpload>");
        for (start, number) in (0..facts.size).step_by(usize::try_from(self.part).unwrap_or(usize::MAX)).zip(1u32..) {
            let length = self.part.min(facts.size - start);
            let path = file.to_path_buf();
            let payload = tokio::task::spawn_blocking(move || hash_of(&path, start, length)).await.internal("reading image content")??;
            let number = number.to_string();
            let answer =
                self.send_piece(file, start, length, &facts.sha256, &[("partNumber", &number), ("uploadId", id)], &payload).await?;
            let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_string();
            self.answer(answer).await.and_then(|answer| self.expected(answer))?;
            let _ = write!(whole, "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", tag.replace('"', "&quot;"));
        }
        whole.push_str("</CompleteMultipartUpload>");
        let answer = self.ask(Method::POST, &facts.sha256, &[("uploadId", id)], whole).await?;
        self.expected(answer).map(drop)
    }

    pub async fn has(&self, sha256: &str) -> Result<bool> {
        Ok(self.ask(Method::HEAD, sha256, &[], String::new()).await?.is_some())
    }

    /// Writes the content into a new file, where it is verified; false when there is none.
    pub async fn get(&self, sha256: &str, to: &Path) -> Result<bool> {
        let answer = self.send(Method::GET, sha256, &[], reqwest::Body::default(), &hex(&Sha256::digest("")), 0).await?;
        if answer.status() != StatusCode::OK {
            let other = self.answer(answer).await?;
            return if other.is_none() { Ok(false) } else { Err(Error::unavailable("The object store answers with something else.")) };
        }
        if !receive(answer.bytes_stream().map_err(|e| self.unavailable(e)), to, sha256).await? {
            return Err(Error::internal(format!("{sha256} in {} is damaged: its content is not what its name says", self.url)));
        }
        Ok(true)
    }

    /// Removes content; that there was none is fine.
    pub async fn remove(&self, sha256: &str) -> Result<()> {
        self.ask(Method::DELETE, sha256, &[], String::new()).await.map(drop)
    }

    /// Names of all objects.
    pub async fn list(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let after = names.last().cloned().unwrap_or_default();
            let mut pairs = vec![("list-type", "2")];
            if !after.is_empty() {
                pairs.push(("start-after", after.as_str()));
            }
            let answer = self.ask(Method::GET, "", &pairs, String::new()).await?;
            let answer = answer.ok_or_else(|| Error::unavailable(format!("There is no bucket at {}.", self.url)))?;
            let before = names.len();
            names.extend(answer.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")).map(|(name, _)| name.to_string()));
            if names.len() == before || element(&answer, "IsTruncated") != Some("true") {
                return Ok(names);
            }
        }
    }
}

/// The SHA-256 of a part of a file. Blocks.
fn hash_of(file: &Path, start: u64, length: u64) -> Result<String> {
    let mut source = std::fs::File::open(file).internal("opening image content")?;
    source.seek(SeekFrom::Start(start)).internal("reading image content")?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; 256 << 10]);
    let mut source = source.take(length);
    loop {
        match source.read(&mut block).internal("reading image content")? {
            0 => return Ok(hex(&hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}
