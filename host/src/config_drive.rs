//! The config drive: metadata as files in a small ISO 9660 volume labelled `config-2`, with Joliet names.

use std::collections::BTreeMap;

use base::Result;
use base::error::Internal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rpc::instance::Metadata;
use serde_json::Value;

const SECTOR: usize = 2048;
const LABEL: &str = "config-2";
/// Metadata versions that guests' agents look for; all hold the same files.
const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
];

/// Path → content of every file.
pub fn files(metadata: &Metadata) -> Result<BTreeMap<String, Vec<u8>>> {
    let user_data = match &metadata.user_data_base64 {
        Some(text) => Some(STANDARD.decode(text).internal("user data is not base64")?),
        None => None,
    };
    let json = |value: &Value| match value {
        Value::Null => "{}".to_string().into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let mut out = BTreeMap::new();
    for version in VERSIONS {
        let directory = format!("openstack/{version}");
        out.insert(format!("{directory}/meta_data.json"), json(&metadata.meta_data));
        out.insert(format!("{directory}/network_data.json"), json(&metadata.network_data));
        out.insert(format!("{directory}/vendor_data.json"), json(&metadata.vendor_data));
        out.insert(format!("{directory}/vendor_data2.json"), json(&Value::Null));
        if let Some(data) = &user_data {
            out.insert(format!("{directory}/user_data"), data.clone());
        }
    }
    for (n, content) in metadata.files.iter().enumerate() {
        out.insert(format!("openstack/content/{n:04}"), STANDARD.decode(content).internal("a file's content is not base64")?);
    }
    if !metadata.ec2.is_empty() {
        let tree: BTreeMap<&String, &String> = metadata.ec2.iter().collect();
        let text = serde_json::to_vec(&tree).internal("metadata is no JSON")?;
        for version in ["2009-04-04", "latest"] {
            out.insert(format!("ec2/{version}/meta-data.json"), text.clone());
            if let Some(data) = &user_data {
                out.insert(format!("ec2/{version}/user-data"), data.clone());
            }
        }
    }
    Ok(out)
}

/// The whole volume.
pub fn image(metadata: &Metadata) -> Result<Vec<u8>> {
    Ok(volume(&files(metadata)?))
}

/// Directories in the order of the path table: each after its parent.
struct Directory {
    /// Empty for the root.
    name: String,
    parent: usize,
    directories: Vec<usize>,
    files: Vec<(String, usize)>,
}

fn volume(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    // Equal contents are stored once: every version of the metadata is the same.
    let mut contents: Vec<&[u8]> = Vec::new();
    let mut directories = vec![Directory { name: String::new(), parent: 0, directories: vec![], files: vec![] }];
    let mut level: Vec<Vec<usize>> = vec![vec![0]];
    for (path, data) in files {
        let index = contents.iter().position(|c| *c == data.as_slice()).unwrap_or_else(|| {
            contents.push(data);
            contents.len() - 1
        });
        let parts: Vec<&str> = path.split('/').collect();
        let mut at = 0;
        for (depth, part) in parts[..parts.len() - 1].iter().enumerate() {
            let found = directories[at].directories.iter().copied().find(|d| directories[*d].name == *part);
            at = found.unwrap_or_else(|| {
                directories.push(Directory { name: part.to_string(), parent: at, directories: vec![], files: vec![] });
                let new = directories.len() - 1;
                directories[at].directories.push(new);
                if level.len() <= depth + 1 {
                    level.push(vec![]);
                }
                level[depth + 1].push(new);
                new
            });
        }
        directories[at].files.push((parts[parts.len() - 1].to_string(), index));
    }
    let order: Vec<usize> = level.into_iter().flatten().collect();

    let trees = [Names::Primary, Names::Joliet];
    // Where everything lies: descriptors, then for each tree two path tables and its directories, then the data.
    let mut next = 19;
    let mut layout = Vec::new();
    for names in trees {
        let table = path_table(&directories, &order, names, &vec![0; directories.len()], false).len();
        let tables = (next, next + table.div_ceil(SECTOR));
        next += 2 * table.div_ceil(SECTOR);
        let mut at = vec![0; directories.len()];
        for d in &order {
            at[*d] = next;
            next += records_length(&directories, *d, names).div_ceil(SECTOR);
        }
        layout.push((tables, table, at));
    }
    let mut data_at = Vec::new();
    for content in &contents {
        data_at.push((next, content.len()));
        next += content.len().div_ceil(SECTOR);
    }

    let mut out = vec![0u8; next * SECTOR];
    for (i, names) in trees.into_iter().enumerate() {
        let (tables, table_length, at) = &layout[i];
        let root_length = records_length(&directories, 0, names).next_multiple_of(SECTOR);
        put(&mut out, 16 + i, &descriptor(names, next, *tables, *table_length, (at[0], root_length)));
        put(&mut out, tables.0, &path_table(&directories, &order, names, at, false));
        put(&mut out, tables.1, &path_table(&directories, &order, names, at, true));
        for d in &order {
            put(&mut out, at[*d], &records(&directories, *d, names, at, &data_at));
        }
    }
    let mut end = vec![255u8];
    end.extend(b"CD001\x01");
    put(&mut out, 18, &end);
    for (content, (at, _)) in contents.iter().zip(&data_at) {
        put(&mut out, *at, content);
    }
    out
}

fn put(out: &mut [u8], sector: usize, bytes: &[u8]) {
    out[sector * SECTOR..sector * SECTOR + bytes.len()].copy_from_slice(bytes);
}

#[derive(Clone, Copy, PartialEq)]
enum Names {
    Primary,
    Joliet,
}

impl Names {
    fn encode(self, name: &str, file: bool) -> Vec<u8> {
        match self {
            Names::Joliet => name.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            Names::Primary => {
                let keep = |c: char| if c.is_ascii_alphanumeric() || (c == '.' && file) { c.to_ascii_uppercase() } else { '_' };
                let mut text: String = name.chars().map(keep).take(28).collect();
                if file {
                    if !text.contains('.') {
                        text.push('.');
                    }
                    text.push_str(";1");
                }
                text.into_bytes()
            }
        }
    }
}

fn both16(value: u16) -> [u8; 4] {
    let (a, b) = (value.to_le_bytes(), value.to_be_bytes());
    [a[0], a[1], b[0], b[1]]
}
fn both32(value: usize) -> [u8; 8] {
    let (a, b) = ((value as u32).to_le_bytes(), (value as u32).to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
}

/// 2020-01-01: the same metadata gives the same bytes.
const DATE: [u8; 7] = [120, 1, 1, 0, 0, 0, 0];

fn record(name: &[u8], extent: usize, length: usize, directory: bool) -> Vec<u8> {
    let size = (33 + name.len()).next_multiple_of(2);
    let mut out = vec![size as u8, 0];
    out.extend(both32(extent));
    out.extend(both32(length));
    out.extend(DATE);
    out.extend([if directory { 2 } else { 0 }, 0, 0]);
    out.extend(both16(1));
    out.push(name.len() as u8);
    out.extend(name);
    out.resize(size, 0);
    out
}

fn records(directories: &[Directory], d: usize, names: Names, at: &[usize], data_at: &[(usize, usize)]) -> Vec<u8> {
    let size = |d: usize| records_length(directories, d, names).next_multiple_of(SECTOR);
    let directory = &directories[d];
    let mut entries: Vec<(Vec<u8>, usize, usize, bool)> = Vec::new();
    for child in &directory.directories {
        entries.push((names.encode(&directories[*child].name, false), at[*child], size(*child), true));
    }
    for (name, content) in &directory.files {
        let (extent, length) = data_at.get(*content).copied().unwrap_or_default();
        entries.push((names.encode(name, true), extent, length, false));
    }
    entries.sort();
    let mut out = record(&[0], at[d], size(d), true);
    out.extend(record(&[1], at[directory.parent], size(directory.parent), true));
    for (name, extent, length, is_directory) in entries {
        let bytes = record(&name, extent, length, is_directory);
        // A record never crosses the border of a sector.
        if out.len() / SECTOR != (out.len() + bytes.len() - 1) / SECTOR {
            out.resize(out.len().next_multiple_of(SECTOR), 0);
        }
        out.extend(bytes);
    }
    out
}

fn records_length(directories: &[Directory], d: usize, names: Names) -> usize {
    // Lengths do not depend on places, so any will do.
    let directory = &directories[d];
    let mut sizes: Vec<(Vec<u8>, bool)> =
        directory.directories.iter().map(|c| (names.encode(&directories[*c].name, false), true)).collect();
    sizes.extend(directory.files.iter().map(|(n, _)| (names.encode(n, true), false)));
    sizes.sort();
    let mut length = 68;
    for (name, _) in sizes {
        let bytes = (33 + name.len()).next_multiple_of(2);
        if length / SECTOR != (length + bytes - 1) / SECTOR {
            length = length.next_multiple_of(SECTOR);
        }
        length += bytes;
    }
    length
}

fn path_table(directories: &[Directory], order: &[usize], names: Names, at: &[usize], big_endian: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for d in order {
        let name = if *d == 0 { vec![0] } else { names.encode(&directories[*d].name, false) };
        let parent = order.iter().position(|o| *o == directories[*d].parent).unwrap_or_default() as u16 + 1;
        out.extend([name.len() as u8, 0]);
        if big_endian {
            out.extend((at[*d] as u32).to_be_bytes());
            out.extend(parent.to_be_bytes());
        } else {
            out.extend((at[*d] as u32).to_le_bytes());
            out.extend(parent.to_le_bytes());
        }
        out.extend(&name);
        if name.len() % 2 == 1 {
            out.push(0);
        }
    }
    out
}

fn descriptor(names: Names, sectors: usize, tables: (usize, usize), table_length: usize, root: (usize, usize)) -> Vec<u8> {
    let joliet = names == Names::Joliet;
    let text = |value: &str, length: usize| -> Vec<u8> {
        let mut bytes = if joliet { value.encode_utf16().flat_map(u16::to_be_bytes).collect() } else { value.as_bytes().to_vec() };
        while bytes.len() + usize::from(joliet) < length {
            if joliet {
                bytes.push(0);
            }
            bytes.push(b' ');
        }
        bytes.resize(length, 0);
        bytes
    };
    let mut out = vec![if joliet { 2 } else { 1 }];
    out.extend(b"CD001\x01\0");
    out.extend(text("", 32));
    out.extend(text(LABEL, 32));
    out.extend([0; 8]);
    out.extend(both32(sectors));
    let mut escapes = [0u8; 32];
    if joliet {
        escapes[..3].copy_from_slice(b"%/E");
    }
    out.extend(escapes);
    out.extend(both16(1));
    out.extend(both16(1));
    out.extend(both16(SECTOR as u16));
    out.extend(both32(table_length));
    out.extend((tables.0 as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend((tables.1 as u32).to_be_bytes());
    out.extend([0; 4]);
    out.extend(record(&[0], root.0, root.1, true));
    for length in [128, 128, 128, 128, 37, 37, 37] {
        out.extend(text("", length));
    }
    for date in ["2020010100000000", "2020010100000000", "0000000000000000", "0000000000000000"] {
        out.extend(date.as_bytes());
        out.push(0);
    }
    out.extend([1, 0]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An own reader of the Joliet tree: what a guest's kernel does.
    fn read(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let sector = |n: usize| &image[n * SECTOR..];
        assert_eq!(&sector(16)[1..6], b"CD001");
        assert_eq!(&sector(16)[40..48], b"config-2");
        assert_eq!(u32::from_le_bytes(sector(16)[80..84].try_into().unwrap()) as usize * SECTOR, image.len());
        assert_eq!(sector(18)[0], 255);
        let joliet = sector(17);
        assert_eq!((joliet[0], &joliet[88..91]), (2, b"%/E".as_slice()));
        let le = |b: &[u8]| u32::from_le_bytes(b[..4].try_into().unwrap()) as usize;
        let mut out = BTreeMap::new();
        let mut todo = vec![(String::new(), le(&joliet[158..]), le(&joliet[166..]))];
        while let Some((path, at, length)) = todo.pop() {
            let bytes = &sector(at)[..length];
            let mut p = 0;
            while p < length {
                let size = bytes[p] as usize;
                if size == 0 {
                    p = (p + 1).next_multiple_of(SECTOR);
                    continue;
                }
                let record = &bytes[p..p + size];
                p += size;
                let name = &record[33..33 + record[32] as usize];
                if name.len() == 1 {
                    continue;
                }
                let units: Vec<u16> = name.chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
                let name = format!("{path}{}", String::from_utf16(&units).unwrap());
                if record[25] & 2 != 0 {
                    todo.push((format!("{name}/"), le(&record[2..]), le(&record[10..])));
                } else {
                    out.insert(name, sector(le(&record[2..]))[..le(&record[10..])].to_vec());
                }
            }
        }
        out
    }

    #[test]
    fn everything_comes_back() {
        let metadata = Metadata {
            meta_data: serde_json::json!({"uuid": "x", "long": "y".repeat(5000)}),
            user_data_base64: Some(STANDARD.encode(b"#!/bin/sh\n\0\xff")),
            ec2: [("local-hostname".to_string(), "vm".to_string())].into(),
            config_drive: true,
            ..Default::default()
        };
        let want = files(&metadata).unwrap();
        assert_eq!(want["openstack/latest/user_data"], b"#!/bin/sh\n\0\xff");
        assert_eq!(read(&image(&metadata).unwrap()), want);
    }

    #[test]
    fn many_files_fill_several_sectors() {
        let want: BTreeMap<String, Vec<u8>> =
            (0..300).map(|i| (format!("openstack/content/{i:04}"), format!("content {i}").into_bytes())).collect();
        assert_eq!(read(&volume(&want)), want);
    }
}
