//! The way back from an image that turns out not to be what was signed.

use rpc::instance::{Power, Restart};
use serde::{Deserialize, Serialize};

use crate::db::servers::{DiskRevisions, ImageFacts, Rescue, Server};

/// What a server had before it was given an image that is not verified or converted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Former {
    image_ref: String,
    image: Option<ImageFacts>,
    root_image: Option<ImageFacts>,
    trusted_certs: Option<Vec<String>>,
    disks: DiskRevisions,
    rescue: Option<Rescue>,
    restart: Restart,
    wanted: Power,
    boot: u64,
}

impl Former {
    /// What is to be kept of a server that is about to get this image; none for an image that hosts may hear of at once.
    pub fn kept(server: &Server, image: &ImageFacts) -> Option<Box<Former>> {
        if image.is_ready() || server.is_doubtful() {
            return None;
        }
        let doc = &server.doc;
        Some(Box::new(Former {
            image_ref: server.image_ref.clone(),
            image: doc.image.clone(),
            root_image: doc.root_image.clone(),
            trusted_certs: doc.trusted_certs.clone(),
            disks: doc.disks.clone(),
            rescue: doc.rescue.clone(),
            restart: doc.restart,
            wanted: server.wanted,
            boot: server.boot,
        }))
    }

    /// Makes the server what it was, in a new generation of its document: its host has not heard of anything else.
    pub fn put_back(self, server: &mut Server) {
        let doc = &mut server.doc;
        // The numbers given meanwhile are not given again.
        doc.disks = DiskRevisions { last: doc.disks.last, ..self.disks };
        (doc.image, doc.root_image, doc.rescue) = (self.image, self.root_image, self.rescue);
        (doc.trusted_certs, doc.restart) = (self.trusted_certs, self.restart);
        (server.image_ref, server.boot) = (self.image_ref, self.boot);
        server.want(self.wanted);
    }
}
