//! The list of properties in the documentation, and the code that reads them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How code asks an image for a property.
const ASKS: [&str; 6] = ["image(server, \"", " image(\"", "of_image(\"", "properties.get(\"", "property(&[\"", "_OF_IMAGE: &str = \""];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_documented_properties_are_those_that_are_read() {
    let text = std::fs::read_to_string(root().join("docs/services/image.md")).unwrap();
    let (_, section) = text.split_once("## Properties that other services read").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(|line| line.split('|').nth(1).unwrap());
    let listed: BTreeSet<String> =
        rows.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_string).collect::<Vec<_>>()).collect();
    assert!(listed.len() > 20, "{listed:?}");
    let mut files = Vec::new();
    for service in ["services/compute/src", "services/block-storage/src"] {
        sources(&root().join(service), &mut files);
    }
    let mut read = BTreeSet::new();
    for file in &files {
        for ask in ASKS {
            for (at, _) in file.match_indices(ask) {
                // Several names stand in one list.
                let names = file[at + ask.len() - 1..].split([')', ']', ';']).next().unwrap();
                read.extend(names.split('"').skip(1).step_by(2).map(str::to_string));
            }
        }
    }
    // Of the image itself, not a property of it.
    read.remove("checksum");
    let unlisted: Vec<&String> = read.difference(&listed).collect();
    assert!(unlisted.is_empty(), "not documented: {unlisted:?}");
    let unread: Vec<&String> =
        listed.iter().filter(|name| !read.contains(*name) && !["trait:NAME", "img_signature"].contains(&name.as_str())).collect();
    assert!(unread.is_empty(), "read by nobody: {unread:?}");
}
