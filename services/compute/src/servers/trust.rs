//! Whose signature of an image a server's user trusts.

use base::{Context, Result};
use image::{Doubt, Trust};

use crate::Compute;

impl Compute {
    /// The trusted certificates of a server: those that are named, or the cloud's.
    pub(crate) fn trusted_certs(&self, named: Option<Vec<String>>) -> Option<Vec<String>> {
        let config = &self.core.config;
        if named.is_some() || !config.flag("compute.verify_glance_signatures") || !config.flag("compute.enable_certificate_validation") {
            return named;
        }
        let ids = config.text("compute.default_trusted_certificate_ids").split(',').map(str::trim).filter(|id| !id.is_empty());
        Some(ids.map(str::to_string).collect::<Vec<_>>()).filter(|ids| !ids.is_empty())
    }

    /// What speaks against starting a server from an image. `trusted`: the server's certificates; `token`: the caller's, by which the key
    /// manager is asked.
    pub(crate) async fn image_doubt(
        &self,
        ctx: &Context,
        token: Option<&str>,
        image: &str,
        trusted: Option<&[String]>,
    ) -> Result<Option<Doubt>> {
        let config = &self.core.config;
        let trust = match trusted {
            Some(ids) => Trust::Issuers(ids.to_vec()),
            None if !config.flag("compute.verify_glance_signatures") => return Ok(None),
            None if config.flag("compute.enable_certificate_validation") => Trust::Nobody,
            None => Trust::Anybody,
        };
        self.images.image_doubt(ctx, token, image, &trust).await
    }
}
