//! The least HTTP/1.1 client that keeps a connection open: on two cores the client must not be what is measured.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// What is read of a body at once.
const BLOCK: usize = 256 << 10;

pub struct Answer {
    pub status: u16,
    /// `X-Subject-Token`, when there is one.
    pub token: Option<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("status {}: {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The decoded body of an answer with this status.
    pub fn expect(&self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!("status {} instead of {status}: {}", self.status, String::from_utf8_lossy(&self.body));
        }
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }
}

pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
    pub token: String,
}

impl Client {
    pub fn new(address: SocketAddr, token: &str) -> Client {
        Client { address, stream: None, token: token.to_string() }
    }

    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.call("GET", path, "", None)
    }
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.call("POST", path, "", Some(body))
    }
    pub fn put(&mut self, path: &str, body: &Value) -> Result<Answer> {
        self.call("PUT", path, "", Some(body))
    }
    pub fn delete(&mut self, path: &str) -> Result<Answer> {
        self.call("DELETE", path, "", None)
    }

    /// `headers` are whole lines, each with its end.
    pub fn call(&mut self, method: &str, path: &str, headers: &str, body: Option<&Value>) -> Result<Answer> {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}", self.address);
        if !self.token.is_empty() {
            request.push_str(&format!("X-Auth-Token: {}\r\n", self.token));
        }
        if !body.is_empty() {
            request.push_str("Content-Type: application/json\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let answer = self.exchange(&request);
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    /// Sends a file as the body of a `PUT`.
    pub fn upload(&mut self, path: &str, file: &Path) -> Result<Answer> {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        let kind = "Content-Type: application/octet-stream";
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nX-Auth-Token: {}\r\n{kind}\r\nContent-Length: {length}\r\n\r\n",
            self.address, self.token
        );
        let stream = self.stream()?.get_mut();
        stream.write_all(head.as_bytes())?;
        // By the kernel: what the client does is not what is measured.
        std::io::copy(&mut file, stream)?;
        self.answer()
    }

    /// Writes the body of an answer with the status 200 as it comes; how long it was.
    pub fn download(&mut self, path: &str, into: &mut impl Write) -> Result<u64> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nX-Auth-Token: {}\r\n\r\n", self.address, self.token);
        let stream = self.stream()?;
        stream.get_mut().write_all(head.as_bytes())?;
        let head = Head::read(stream)?;
        if head.status != 200 || head.chunked {
            bail!("status {} instead of 200, or a body of unknown length", head.status);
        }
        let mut left = head.length;
        let mut block = vec![0; BLOCK];
        while left > 0 {
            let size = left.min(BLOCK);
            stream.read_exact(&mut block[..size])?;
            into.write_all(&block[..size])?;
            left -= size;
        }
        Ok(head.length as u64)
    }

    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>> {
        Ok(match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                none.insert(BufReader::new(stream))
            }
        })
    }

    fn exchange(&mut self, request: &str) -> Result<Answer> {
        self.stream()?.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Answer> {
        let stream = self.stream()?;
        let Head { status, length, chunked, close, token } = Head::read(stream)?;
        let mut body = vec![0; length];
        if chunked {
            let mut line = String::new();
            loop {
                line.clear();
                stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16)?;
                let start = body.len();
                body.resize(start + size + 2, 0);
                stream.read_exact(&mut body[start..])?;
                body.truncate(start + size);
                if size == 0 {
                    break;
                }
            }
        } else {
            stream.read_exact(&mut body)?;
        }
        if close {
            self.stream = None;
        }
        Ok(Answer { status, token, body })
    }
}

/// What stands before the body of an answer.
struct Head {
    status: u16,
    length: usize,
    chunked: bool,
    close: bool,
    token: Option<String>,
}

impl Head {
    fn read(stream: &mut BufReader<TcpStream>) -> Result<Head> {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| format!("not an answer: {line:?}"))?;
        let mut head = Head { status, length: 0, chunked: false, close: false, token: None };
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                bail!("the connection ended inside the headers");
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse()?,
                "transfer-encoding" => head.chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => head.close = value.eq_ignore_ascii_case("close"),
                "x-subject-token" => head.token = Some(value.to_string()),
                _ => {}
            }
        }
    }
}
