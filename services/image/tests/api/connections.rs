//! Uploads and downloads over real connections that break, stall or send too much.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::crashes::until;
use crate::world::World;

struct Server {
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(world: &Arc<World>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let app = world.app.clone();
        let serving = tokio::spawn(async move {
            http_api::server::serve(listener, None, app, stopped, Duration::from_secs(10)).await.unwrap();
        });
        Server { address, stop, serving }
    }

    /// Sends the head of an upload of `length` bytes.
    async fn begin(&self, token: &str, id: &str, length: u64) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "PUT /image/v2/images/{id}/file HTTP/1.1\r\nhost: x\r\nx-auth-token: {token}\r\n\
             content-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.serving.await.unwrap();
    }
}

async fn status(stream: &mut TcpStream) -> String {
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()[9..].to_string()
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_image_queued() {
    let world = Arc::new(World::new().await);
    let server = Server::start(&world).await;
    let id = world.image("alice", json!({"disk_format": "raw", "container_format": "bare"})).await;
    let mut stream = server.begin("alice", &id, 1 << 30).await;
    stream.write_all(&[7; 100_000]).await.unwrap();
    until("the upload has begun", async || world.files().len() == 1).await;
    drop(stream);
    until("the image is queued again", async || world.show("alice", &id).await["status"] == "queued").await;
    until("the file goes", async || world.files().is_empty()).await;
    server.end().await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_is_still_sending() {
    let world = Arc::new(World::new().await);
    let server = Server::start(&world).await;
    let active = world.active("alice", json!({}), b"x").await;
    let wrong = world.image("alice", json!({"disk_format": "qcow2", "container_format": "bare"})).await;
    let length = 16 << 20;
    for (token, id, wanted) in [("alice", &active, "409"), ("reader", &active, "403"), ("bob", &active, "404"), ("alice", &wrong, "415")] {
        let mut stream = server.begin(token, id, length).await;
        // Blocks unless someone reads.
        stream.write_all(&vec![0; length as usize]).await.unwrap();
        assert_eq!(status(&mut stream).await, wanted);
    }
    server.end().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_costs_nothing() {
    let world = Arc::new(World::new().await);
    let server = Server::start(&world).await;
    let id = world.active("alice", json!({}), &vec![1; 8 << 20]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!("GET /image/v2/images/{id}/file HTTP/1.1\r\nhost: x\r\nx-auth-token: alice\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status(&mut stream).await, "200");
    drop(stream);
    world.delete("alice", &format!("/v2/images/{id}")).await.is(204);
    assert!(world.files().is_empty());
    server.end().await;
}
