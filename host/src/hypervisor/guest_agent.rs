//! The agent inside a guest, reached over its serial channel. Nothing it says is believed further than an error's text.

use std::path::Path;
use std::time::Duration;

use base::{Error, Kind, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::qmp::dial;

/// No answer to what we ask is longer.
const LINE_MAX: usize = 64 << 10;
/// The agent begins a new answer after this byte, whatever was left in the channel before.
const DELIMITER: u8 = 0xff;
const SYNC: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(5) };
const ANSWER: Duration = Duration::from_secs(10);

/// Runs one command. None when it was done, else why not.
pub async fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Option<String>> {
    let mut stream = match dial(socket).await {
        Ok(stream) => stream,
        Err(e) if e.is(Kind::NotFound) => return Ok(Some("the guest has no channel to an agent".into())),
        Err(e) => return Err(e),
    };
    let number = i64::from(std::process::id());
    let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": number}});
    let mut line = vec![DELIMITER];
    line.extend(format!("{sync}\n").bytes());
    let synced = tokio::time::timeout(SYNC, async {
        stream.write_all(&line).await.map_err(gone)?;
        skip(&mut stream).await?;
        loop {
            // An answer to somebody who asked before may come first.
            if answer(&mut stream).await?.get("return").and_then(Value::as_i64) == Some(number) {
                return Ok::<(), Error>(());
            }
        }
    });
    match synced.await {
        Ok(done) => done?,
        Err(_) => return Ok(Some("the guest's agent does not answer".into())),
    }
    let request = json!({"execute": command, "arguments": arguments});
    let asked = tokio::time::timeout(ANSWER, async {
        stream.write_all(format!("{request}\n").as_bytes()).await.map_err(gone)?;
        answer(&mut stream).await
    });
    match asked.await {
        Ok(answer) => Ok(answer?.get("error").map(|e| e["desc"].as_str().unwrap_or("it gives no reason").chars().take(200).collect())),
        Err(_) => Ok(Some("the guest's agent does not answer".into())),
    }
}

fn gone(e: std::io::Error) -> Error {
    Error::unavailable("the channel to the guest's agent is closed").caused_by(e)
}

/// Reads up to the delimiter.
async fn skip(stream: &mut UnixStream) -> Result<()> {
    while stream.read_u8().await.map_err(gone)? != DELIMITER {}
    Ok(())
}

async fn answer(stream: &mut UnixStream) -> Result<Value> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.map_err(gone)? {
            b'\n' if line.is_empty() => {}
            b'\n' => return serde_json::from_slice(&line).map_err(|_| Error::unavailable("the guest's agent talks nonsense")),
            byte if line.len() < LINE_MAX => line.push(byte),
            _ => return Err(Error::unavailable("the guest's agent talks too much")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    /// An agent that leaves rubbish in the channel, syncs, and answers commands so.
    async fn agent(path: &Path, reply: Value) {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            write.write_all(b"{\"return\": 77}\n").await.unwrap();
            let mut lines = BufReader::new(read).split(b'\n');
            while let Some(line) = lines.next_segment().await.unwrap() {
                let text: Vec<u8> = line.into_iter().filter(|b| *b != DELIMITER).collect();
                let command: Value = serde_json::from_slice(&text).unwrap();
                if command["execute"] == "guest-sync-delimited" {
                    write.write_all(&[DELIMITER]).await.unwrap();
                    write.write_all(format!("{}\n", json!({"return": command["arguments"]["id"]})).as_bytes()).await.unwrap();
                } else {
                    write.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
                }
            }
        });
    }

    #[tokio::test]
    async fn commands_are_done_or_refused() {
        let home = tempfile::tempdir().unwrap();
        let (good, bad) = (home.path().join("good"), home.path().join("bad"));
        agent(&good, json!({"return": {}})).await;
        assert_eq!(execute(&good, "guest-set-user-password", json!({})).await.unwrap(), None);
        agent(&bad, json!({"error": {"class": "GenericError", "desc": "no such user"}})).await;
        assert_eq!(execute(&bad, "guest-set-user-password", json!({})).await.unwrap().unwrap(), "no such user");
        let nobody = execute(&home.path().join("none"), "guest-ping", json!({})).await.unwrap().unwrap();
        assert!(nobody.contains("no channel"), "{nobody}");
        // Listens, and says nothing.
        let _silent = UnixListener::bind(home.path().join("silent")).unwrap();
        let silent = execute(&home.path().join("silent"), "guest-ping", json!({})).await.unwrap().unwrap();
        assert!(silent.contains("does not answer"), "{silent}");
    }
}
