//! Consoles: who gets a URL, and what comes through the websocket it leads to.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::world::{PATIENCE, World};

/// The cloud's API on a port of its own, for as long as this lives.
struct Served {
    address: std::net::SocketAddr,
    _stop: watch::Sender<bool>,
}

impl Served {
    async fn new(w: &World) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(http_api::server::serve(listener, None, w.cloud.controller.app.clone(), stopped, Duration::ZERO));
        Served { address, _stop: stop }
    }

    /// Asks for an upgrade; answers the connection behind the answer's headers, and the status line.
    async fn connect(&self, path: &str, headers: &str) -> (TcpStream, String) {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: cloud.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: binary\r\n{headers}\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        (socket, String::from_utf8(head).unwrap())
    }
}

/// Sends a masked binary message.
async fn send(socket: &mut TcpStream, data: &[u8]) {
    let mut frame = vec![0x82, 0x80 | u8::try_from(data.len()).unwrap(), 1, 2, 3, 4];
    frame.extend(data.iter().enumerate().map(|(i, b)| b ^ [1, 2, 3, 4][i % 4]));
    socket.write_all(&frame).await.unwrap();
}

/// The next message's data; None when the other side has closed.
async fn receive(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let read = async {
        let head = socket.read_u16().await.ok()?;
        assert!(head & 0x7f < 126, "a short message");
        let mut data = vec![0u8; usize::from(head & 0x7f)];
        socket.read_exact(&mut data).await.ok()?;
        (head >> 8 == 0x82).then_some(data)
    };
    tokio::time::timeout(PATIENCE, read).await.expect("a message in time")
}

/// The websocket's path in a console's URL, as clients find it.
fn stream_of(url: &str) -> String {
    match url.split_once("?path=") {
        Some((_, path)) => format!("/{}", path.replace("%2F", "/").replace("%3F", "?").replace("%3D", "=")),
        None => format!("/{}", url.splitn(4, '/').nth(3).unwrap()),
    }
}

impl World {
    async fn console(&self, id: &str, protocol: &str, kind: &str) -> String {
        let body = json!({"remote_console": {"protocol": protocol, "type": kind}});
        let made = self.post(&format!("/servers/{id}/remote-consoles"), body, "2.6").await.expect(200);
        assert_eq!((&made["remote_console"]["protocol"], &made["remote_console"]["type"]), (&json!(protocol), &json!(kind)));
        made["remote_console"]["url"].as_str().unwrap().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_comes_through_the_websocket() {
    let w = World::new().await;
    let served = Served::new(&w).await;
    let id = w.active(json!({})).await;
    let url = w.console(&id, "vnc", "novnc").await;
    let page = w.cloud.request("GET", url.strip_prefix("http://cloud.test").unwrap()).send().await;
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.contains("<script") && text.contains("noVNC") && text.contains("</html>"), "{text}");
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    for (file, status) in [("vnc.js", 200), ("serial.html", 200), ("serial.js", 200), ("console.css", 200), ("other", 404)] {
        assert_eq!(w.cloud.request("GET", &format!("/compute/console/{file}")).send().await.status, status, "{file}");
    }

    let path = stream_of(&url);
    let (mut socket, head) = served.connect(&path, "Origin: http://cloud.test\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.to_ascii_lowercase().contains("sec-websocket-protocol: binary"), "{head}");
    assert_eq!(receive(&mut socket).await.unwrap(), b"RFB 003.008\n");
    send(&mut socket, b"RFB 003.008\n").await;
    assert_eq!(receive(&mut socket).await.unwrap(), [1, 1]);
    send(&mut socket, &[1]).await;
    assert_eq!(receive(&mut socket).await.unwrap(), [0; 4]);
    send(&mut socket, &[1]).await;
    let init = receive(&mut socket).await.unwrap();
    assert_eq!((&init[..4], &init[24..]), (&[0, 16, 0, 8][..], id.as_bytes()));

    // Who has no good token, or asks from elsewhere, gets nothing: not even a body.
    for (path, headers) in [
        (path.replace("token=", "token=bad"), ""),
        ("/compute/console/stream".to_string(), ""),
        (path.clone(), "Origin: http://evil.test\r\n"),
    ] {
        let (mut socket, head) = served.connect(&path, headers).await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{path}: {head}");
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the end").unwrap();
        assert_eq!(rest, b"");
    }
    // Not a websocket.
    assert_eq!(w.cloud.request("GET", &path).send().await.status, 400);

    // The guest goes, and its console with it.
    w.delete(&format!("/servers/{id}"), "2.1").await;
    while receive(&mut socket).await.is_some() {}
    w.gone(&id).await;
    assert!(served.connect(&path, "").await.1.starts_with("HTTP/1.1 403 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_port_is_whose_who_came_last() {
    let mut w = World::new().await;
    let served = Served::new(&w).await;
    let id = w.active(json!({})).await;
    let url = w.console(&id, "serial", "serial").await;
    assert!(url.starts_with("ws://cloud.test/compute/console/stream?token="), "{url}");
    let (mut first, _) = served.connect(&stream_of(&url), "").await;
    assert_eq!(receive(&mut first).await.unwrap(), format!("{id} login: ").as_bytes());
    send(&mut first, b"root\r").await;
    assert_eq!(receive(&mut first).await.unwrap(), b"root\r");
    let (mut second, _) = served.connect(&stream_of(&w.console(&id, "serial", "serial").await), "").await;
    assert!(receive(&mut second).await.is_some());
    assert_eq!(receive(&mut first).await, None);
    // Stopped guests have no port, hosts that are away lead nowhere.
    let path = stream_of(&url);
    w.act(&id, json!({"os-stop": null})).await;
    w.wait(&id, "SHUTOFF").await;
    assert!(served.connect(&path, "").await.1.starts_with("HTTP/1.1 409 "));
    w.cloud.hosts[0].vanish().await;
    assert!(served.connect(&path, "").await.1.starts_with("HTTP/1.1 503 "));
    let sql = "UPDATE console_token SET expires_at = 1";
    w.cloud.controller.core.store.write(|tx| tx.execute(sql, &[]).map(drop)).await.unwrap();
    assert!(served.connect(&path, "").await.1.starts_with("HTTP/1.1 403 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_version_has_its_requests() {
    let w = World::new().await;
    let id = w.active(json!({})).await;
    let at = format!("/servers/{id}/remote-consoles");
    let body = |protocol: &str, kind: &str| json!({"remote_console": {"protocol": protocol, "type": kind}});
    for (body, version, status) in [
        (body("vnc", "novnc"), "2.5", 404),
        (body("vnc", "novnc"), "2.104", 200),
        (body("vnc", "xvpvnc"), "2.6", 400),
        (body("vnc", "serial"), "2.6", 400),
        (body("serial", "serial"), "2.6", 200),
        (body("spice", "spice-html5"), "2.6", 400),
        (body("spice", "spice-direct"), "2.98", 400),
        (body("spice", "spice-direct"), "2.99", 400),
        (body("rdp", "rdp-html5"), "2.6", 400),
        (body("mks", "webmks"), "2.7", 400),
        (body("mks", "webmks"), "2.8", 400),
        (body("vnc", "none"), "2.6", 400),
        (json!({"remote_console": {"protocol": "vnc"}}), "2.6", 400),
        (json!({"remote_console": {"protocol": "vnc", "type": "novnc", "x": 1}}), "2.6", 400),
    ] {
        let answer = w.post(&at, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version}: {}", answer.text());
    }
    let unavailable = w.post(&at, body("spice", "spice-html5"), "2.6").await.json();
    assert_eq!(unavailable["badRequest"]["message"], "Unavailable console type spice-html5.");
    let action = format!("/servers/{id}/action");
    for (body, version, status) in [
        (json!({"os-getVNCConsole": {"type": "novnc"}}), "2.1", 200),
        (json!({"os-getVNCConsole": {"type": "xvpvnc"}}), "2.1", 400),
        (json!({"os-getVNCConsole": {"type": "x"}}), "2.1", 400),
        (json!({"os-getVNCConsole": {}}), "2.1", 400),
        (json!({"os-getVNCConsole": {"type": "novnc"}}), "2.6", 404),
        (json!({"os-getSerialConsole": {"type": "serial"}}), "2.5", 200),
        (json!({"os-getSPICEConsole": {"type": "spice-html5"}}), "2.1", 400),
        (json!({"os-getRDPConsole": {"type": "rdp-html5"}}), "2.1", 400),
    ] {
        let answer = w.post(&action, body.clone(), version).await;
        assert_eq!(answer.status, status, "{body} {version}: {}", answer.text());
    }
    let old = w.post(&action, json!({"os-getVNCConsole": {"type": "novnc"}}), "2.1").await.expect(200);
    let token = old["console"]["url"].as_str().unwrap().rsplit("%3D").next().unwrap().to_string();
    let shown = format!("/os-console-auth-tokens/{token}");
    let admin = |path: String, version: &'static str| {
        let w = &w;
        async move { w.call(&w.admin, "GET", &path, None, version).await }
    };
    let found = admin(shown.clone(), "2.31").await.expect(200);
    assert_eq!(found["console"], json!({"instance_uuid": id, "host": "host-0", "port": 0, "internal_access_path": Value::Null}));
    assert_eq!(admin(shown.clone(), "2.30").await.status, 400);
    assert_eq!(admin(format!("{shown}?x=1"), "2.98").await.status, 200);
    assert_eq!(admin(format!("{shown}?x=1"), "2.99").await.status, 400);
    assert_eq!(admin("/os-console-auth-tokens/none".into(), "2.31").await.status, 404);
    assert_eq!(w.get(&shown, "2.31").await.status, 403);
    // Others see no server; readers get no console; a server without a host has none.
    let stranger = w.cloud.tenant("stranger", "member").await;
    assert_eq!(w.call(&stranger, "POST", &at, Some(body("vnc", "novnc")), "2.6").await.status, 404);
    w.cloud.hosts[0].hypervisor.trouble(|t| t.starts_fail.push_back("the disk is on fire".into()));
    let failed = w.create(json!({})).await;
    w.wait(&failed, "ERROR").await;
    let answer = w.post(&format!("/servers/{failed}/remote-consoles"), body("vnc", "novnc"), "2.6").await;
    assert_eq!(answer.status, 409, "{}", answer.text());
}
