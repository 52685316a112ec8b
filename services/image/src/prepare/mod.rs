//! What is done to imported content before it is stored, where the configuration asks for it: it is decompressed, converted, and
//! its image gets properties.

pub mod convert;
mod decompress;

use std::path::Path;

use base::{Config, Context, Error, Result};

use crate::content::{Directory, Temporary};
use crate::model::Image;

/// What the configuration asks for.
#[derive(Debug, Default)]
pub struct Plugins {
    decompress: bool,
    /// The format that is converted to.
    convert: Option<String>,
    inject: Vec<(String, String)>,
    ignored_roles: Vec<String>,
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

impl Plugins {
    pub fn of(config: &Config) -> Result<Plugins> {
        let mut plugins = Plugins::default();
        for name in list(config.text("image.import_plugins")) {
            match name {
                "image_decompression" => plugins.decompress = true,
                "image_conversion" => {
                    let format = config.text("image.conversion_format");
                    if !["raw", "qcow2", "vmdk"].contains(&format) {
                        return Err(Error::invalid(format!("image.conversion_format: `{format}` is not raw, qcow2 or vmdk")));
                    }
                    plugins.convert = Some(format.to_string());
                }
                "inject_image_metadata" => {
                    for entry in list(config.text("image.inject_properties")) {
                        let pair = entry.split_once(':').filter(|(name, _)| !name.is_empty() && name.len() <= 255);
                        let (name, value) = pair
                            .ok_or_else(|| Error::invalid(format!("image.inject_properties: `{entry}` is not of the form name:value")))?;
                        plugins.inject.push((name.to_string(), value.to_string()));
                    }
                    plugins.ignored_roles = list(config.text("image.inject_ignored_roles")).map(str::to_string).collect();
                }
                other => return Err(Error::invalid(format!("image.import_plugins: there is no plugin `{other}`"))),
            }
        }
        Ok(plugins)
    }

    /// The properties that an image gets which this user imports.
    pub fn properties(&self, ctx: &Context) -> &[(String, String)] {
        if self.ignored_roles.iter().any(|role| ctx.has_role(role)) { &[] } else { &self.inject }
    }

    /// Whether anything may be done to the content of this image.
    pub fn concern(&self, image: &Image) -> bool {
        self.decompresses(image) || self.converts(image)
    }

    /// What is to stay compressed says so.
    fn decompresses(&self, image: &Image) -> bool {
        self.decompress && image.container_format.as_deref() != Some("compressed")
    }

    /// What is in a container is no disk that could be converted.
    fn converts(&self, image: &Image) -> bool {
        self.convert.is_some() && image.container_format.as_deref() == Some("bare")
    }

    /// The disk format of an image whose content has been prepared. Only ISOs stay what they are.
    pub fn disk_format<'a>(&'a self, image: &'a Image) -> Option<&'a str> {
        let given = image.disk_format.as_deref();
        match &self.convert {
            Some(format) if self.converts(image) && given != Some("iso") => Some(format),
            _ => given,
        }
    }

    /// Does to `file`, which stays, what is to be done for the image; none: nothing was. `scratch` are ids of uploads that this
    /// process has; `max` is what an image may have of bytes. Blocks.
    pub fn prepare(&self, image: &Image, file: &Path, directory: &Directory, scratch: [&str; 2], max: u64) -> Result<Option<Temporary>> {
        let [first, second] = scratch.map(|id| directory.scratch(id));
        let mut made = None;
        if self.decompresses(image) && decompress::decompress(file, first.path(), max)? {
            made = Some(first);
        }
        let now = made.as_ref().map_or(file, Temporary::path);
        if let Some(format) = self.convert.as_deref().filter(|_| self.converts(image)) {
            if convert::convert(now, image.disk_format.as_deref().unwrap_or_default(), second.path(), format, max)? {
                made = Some(second);
            }
        }
        Ok(made)
    }
}
