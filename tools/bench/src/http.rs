//! The least HTTP/1.1 client that keeps a connection open: on two cores the client must not be what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

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

    fn exchange(&mut self, request: &str) -> Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                none.insert(BufReader::new(stream))
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).with_context(|| format!("not an answer: {line:?}"))?;
        let (mut length, mut chunked, mut close, mut token) = (0, false, false, None);
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                bail!("the connection ended inside the headers");
            }
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => close = value.eq_ignore_ascii_case("close"),
                "x-subject-token" => token = Some(value.to_string()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        if chunked {
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
