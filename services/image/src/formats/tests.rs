use proptest::prelude::*;

use super::*;

/// Puts `bytes` at `at`, growing the file.
fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn qcow2(version: u32, virtual_size: u64) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"QFI\xfb");
    put(&mut file, 4, &version.to_be_bytes());
    put(&mut file, 20, &16u32.to_be_bytes());
    put(&mut file, 24, &virtual_size.to_be_bytes());
    put(&mut file, 36, &u32::try_from(virtual_size.div_ceil(512 << 20)).unwrap().to_be_bytes());
    put(&mut file, 40, &(3u64 << 16).to_be_bytes());
    put(&mut file, 48, &(1u64 << 16).to_be_bytes());
    put(&mut file, 56, &1u32.to_be_bytes());
    if version == 3 {
        put(&mut file, 96, &4u32.to_be_bytes());
        put(&mut file, 100, &104u32.to_be_bytes());
    }
    put(&mut file, (4 << 16) - 1, &[0]);
    file
}

const DESCRIPTOR: &str = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
     # Extent description\nRW 2048 SPARSE \"disk.vmdk\"\n\nddb.adapterType = \"ide\"\n";

fn vmdk(descriptor: &str, footer: bool) -> Vec<u8> {
    let header = |directory: u64| {
        let mut header = Vec::new();
        put(&mut header, 0, b"KDMV");
        put(&mut header, 4, &1u32.to_le_bytes());
        put(&mut header, 12, &2048u64.to_le_bytes());
        put(&mut header, 20, &128u64.to_le_bytes());
        put(&mut header, 28, &1u64.to_le_bytes());
        put(&mut header, 36, &20u64.to_le_bytes());
        put(&mut header, 56, &directory.to_le_bytes());
        put(&mut header, 511, &[0]);
        header
    };
    let mut file = header(if footer { u64::MAX } else { 26 });
    put(&mut file, 512, descriptor.as_bytes());
    put(&mut file, 64 << 10, &[0]);
    if footer {
        let end = file.len().next_multiple_of(512);
        put(&mut file, end, &1u64.to_le_bytes());
        put(&mut file, end + 12, &3u32.to_le_bytes());
        put(&mut file, end + 512, &header(26));
        put(&mut file, end + 1535, &[0]);
    }
    file
}

fn vhd(kind: u32, dynamic: bool) -> Vec<u8> {
    let mut footer = Vec::new();
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 48, &(5u64 << 20).to_be_bytes());
    put(&mut footer, 60, &kind.to_be_bytes());
    put(&mut footer, 511, &[0]);
    let mut file = if dynamic { footer.clone() } else { Vec::new() };
    put(&mut file, 10_000, &footer);
    file
}

fn vhdx(parent: bool) -> Vec<u8> {
    let mut file = Vec::new();
    put(&mut file, 0, b"vhdxfile");
    let table = 192 << 10;
    put(&mut file, table, b"regi");
    put(&mut file, table + 8, &2u32.to_le_bytes());
    put(&mut file, table + 48, &[0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
    let region = 2 << 20;
    put(&mut file, table + 64, &(region as u64).to_le_bytes());
    put(&mut file, table + 72, &(1u32 << 20).to_le_bytes());
    put(&mut file, region, b"metadata");
    put(&mut file, region + 10, &2u16.to_le_bytes());
    put(&mut file, region + 32, &[0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
    put(&mut file, region + 48, &0x10000u32.to_le_bytes());
    put(&mut file, region + 64, &[0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
    put(&mut file, region + 80, &0x10008u32.to_le_bytes());
    put(&mut file, region + 0x10004, &[if parent { 2 } else { 0 }]);
    put(&mut file, region + 0x10008, &(7u64 << 20).to_le_bytes());
    put(&mut file, 3 << 20, &[0]);
    file
}

fn vdi(kind: u32) -> Vec<u8> {
    let mut file = vec![0; 1 << 20];
    put(&mut file, 0x40, &[0x7f, 0x10, 0xda, 0xbe]);
    put(&mut file, 0x4c, &kind.to_le_bytes());
    put(&mut file, 0x170, &(9u64 << 20).to_le_bytes());
    file
}

fn iso() -> Vec<u8> {
    let mut file = vec![0; 60 << 10];
    put(&mut file, 0x8001, b"CD001");
    put(&mut file, 0x8000 + 80, &30u32.to_le_bytes());
    put(&mut file, 0x8000 + 128, &2048u16.to_le_bytes());
    put(&mut file, 0x8000, &[1]);
    file
}

fn partitioned(mut file: Vec<u8>) -> Vec<u8> {
    put(&mut file, 450, &[0xee]);
    put(&mut file, 510, &[0x55, 0xaa]);
    file
}

fn luks() -> Vec<u8> {
    let mut file = vec![0; 1 << 20];
    put(&mut file, 0, b"LUKS\xba\xbe\x00\x01");
    put(&mut file, 104, &1024u32.to_be_bytes());
    file
}

fn read(file: &[u8], piece: usize) -> Inspector {
    let mut inspector = Inspector::new();
    file.chunks(piece.max(1)).for_each(|part| inspector.feed(part));
    inspector
}

#[track_caller]
fn refused(file: &[u8], declared: &str, why: &str) {
    let text = read(file, 65536).judge(declared).expect_err(why).to_string();
    assert!(text.contains(why), "{text:?} does not tell {why:?}");
}

fn samples() -> Vec<(&'static str, Vec<u8>, u64)> {
    vec![
        ("raw", b"just some data".repeat(999), 14 * 999),
        ("raw", Vec::new(), 0),
        ("raw", partitioned(vec![0; 1 << 20]), 1 << 20),
        ("qcow2", qcow2(2, 10 << 30), 10 << 30),
        ("qcow2", qcow2(3, 10 << 30), 10 << 30),
        ("qcow2", qcow2(3, 0), 0),
        ("vmdk", vmdk(DESCRIPTOR, false), 1 << 20),
        ("vmdk", vmdk(&DESCRIPTOR.replace("monolithicSparse", "streamOptimized"), true), 1 << 20),
        ("vhd", vhd(3, true), 5 << 20),
        ("vhd", vhd(2, false), 5 << 20),
        ("vhd", partitioned(vhd(2, false)), 5 << 20),
        ("vhdx", vhdx(false), 7 << 20),
        ("vdi", vdi(1), 9 << 20),
        ("iso", iso(), 60 << 10),
        ("iso", partitioned(iso()), 60 << 10),
        ("luks", luks(), 512 << 10),
    ]
}

#[test]
fn each_format_is_known_and_sized() {
    for (name, file, size) in samples() {
        for piece in [1 << 20, 65536, 1000, 7] {
            let inspector = read(&file, piece);
            assert_eq!(inspector.judge(name), Ok(Some(size)), "{name} in pieces of {piece}: {:?}", inspector.found());
        }
    }
}

#[test]
fn a_wrong_declaration_is_refused() {
    for (name, file, _) in samples() {
        for declared in ["qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks"] {
            if declared != name {
                refused(&file, declared, "disk_format is");
            }
        }
        // Anything may be used as raw: then nobody looks into it.
        assert_eq!(read(&file, 4096).judge("raw"), Ok(Some(file.len() as u64)), "{name}");
    }
    assert_eq!(read(b"kernel", 99).judge("aki"), Ok(None));
    refused(&qcow2(3, 1 << 20), "aki", "disk_format is aki, but the content is qcow2");
}

#[test]
fn qcow2_that_reaches_out_is_refused() {
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = qcow2(3, 1 << 30);
        put(&mut file, at, bytes);
        file
    };
    for declared in ["qcow2", "raw"] {
        refused(&changed(8, &200u64.to_be_bytes()), declared, "backing file");
        refused(&changed(72, &4u64.to_be_bytes()), declared, "data file");
        refused(&changed(72, &(1u64 << 40).to_be_bytes()), declared, "unknown incompatible features");
        refused(&changed(104, &[0x44, 0x41, 0x54, 0x41, 0, 0, 0, 4]), declared, "names an external data file");
    }
    refused(&changed(104, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff]), "qcow2", "beyond the header");
    refused(&changed(4, &9u32.to_be_bytes()), "qcow2", "version 9");
    refused(&changed(20, &63u32.to_be_bytes()), "qcow2", "cluster size");
    refused(&changed(100, &3u32.to_be_bytes()), "qcow2", "header length");
    refused(&changed(24, &u64::MAX.to_be_bytes()), "qcow2", "too large");
    refused(&changed(36, &(5u32 << 20).to_be_bytes()), "qcow2", "too large");
    refused(&changed(36, &1u32.to_be_bytes()), "qcow2", "too small");
    refused(&changed(40, &(1u64 << 40).to_be_bytes()), "qcow2", "not inside the file");
    refused(&changed(32, &2u32.to_be_bytes()), "qcow2", "encrypted");
    refused(&qcow2(3, 1 << 30)[..50], "qcow2", "cut off");
    // Version 2 knows no features: the same bytes mean nothing there.
    let mut old = qcow2(2, 1 << 20);
    put(&mut old, 8, &200u64.to_be_bytes());
    refused(&old, "qcow2", "backing file");
}

#[test]
fn vmdk_that_names_other_files_is_refused() {
    let with = |from: &str, to: &str| vmdk(&DESCRIPTOR.replace(from, to), false);
    refused(&with("monolithicSparse", "monolithicFlat"), "vmdk", "not allowed");
    refused(&with("SPARSE \"disk", "FLAT \"disk"), "vmdk", "only SPARSE");
    refused(&with("\"disk.vmdk\"", "\"/etc/shadow\""), "vmdk", "elsewhere");
    refused(&with("\"disk.vmdk\"", "\"..\\shadow\""), "vmdk", "elsewhere");
    refused(&with("ddb.", "RW 99 SPARSE \"second\"\nddb."), "vmdk", "2 extents");
    refused(&with("RW 2048 SPARSE \"disk.vmdk\"", ""), "vmdk", "0 extents");
    refused(&with("parentCID=ffffffff", "parentCID=00000001"), "vmdk", "parent");
    refused(&with("CID=1", "parentFileNameHint=\"/x\"\nCID=1"), "vmdk", "names a parent");
    refused(&with("createType", "madeType"), "vmdk", "no createType");
    refused(&with("ddb.", "RWX 1 SPARSE \"a\"\nddb."), "vmdk", "not understood");
    refused(&with("# Extent", "# parentFileNameHint=\"x\"\n# Extent"), "vmdk", "names a parent");
    refused(&with("\"ide\"", "\"\u{e4}\""), "vmdk", "no plain text");
    refused(DESCRIPTOR.as_bytes(), "vmdk", "bare descriptor");
    refused(DESCRIPTOR.as_bytes(), "raw", "bare descriptor");
    refused(b"# a comment\n \n  version=1\nRW 1 FLAT \"/etc/shadow\" 0\n", "raw", "bare descriptor");
    let mut empty = vmdk(DESCRIPTOR, false);
    put(&mut empty, 12, &0u64.to_le_bytes());
    refused(&empty, "vmdk", "capacity is zero");
    let mut far = vmdk(DESCRIPTOR, false);
    put(&mut far, 28, &(1u64 << 60).to_le_bytes());
    refused(&far, "vmdk", "where it can be checked");
    let mut two = vmdk(DESCRIPTOR, true);
    let end = two.len();
    put(&mut two, end - 1024 + 28, &9u64.to_le_bytes());
    refused(&two, "vmdk", "contradict");
    // QEMU reads on behind what the header calls the descriptor, up to a NUL.
    let mut behind = vmdk(&format!("{}{}", DESCRIPTOR, "#".repeat(512 - DESCRIPTOR.len())), false);
    put(&mut behind, 36, &1u64.to_le_bytes());
    assert_eq!(read(&behind, 4096).judge("vmdk"), Ok(Some(1 << 20)));
    put(&mut behind, 1024, b"parentFileNameHint=\"/etc/shadow\"");
    refused(&behind, "vmdk", "names a parent");
    // And it reads there also when the header says that the descriptor is elsewhere.
    let mut elsewhere = vmdk(DESCRIPTOR, false);
    put(&mut elsewhere, 28, &30u64.to_le_bytes());
    put(&mut elsewhere, 30 * 512, DESCRIPTOR.as_bytes());
    refused(&elsewhere, "vmdk", "where it can be checked");
    for (at, why) in [
        (512 + 4, "contradict"),
        (12, "footer is missing"),
        (100, "footer is missing"),
        (1024, "footer is missing"),
        (1400, "footer is missing"),
    ] {
        let mut marked = vmdk(DESCRIPTOR, true);
        let end = marked.len() - 1536;
        marked[end + at] = 2;
        refused(&marked, "vmdk", why);
    }
    let mut shifted = vmdk(DESCRIPTOR, true);
    shifted.insert(70_000 / 2, 0);
    refused(&shifted, "vmdk", "footer is missing");
    let cut = vmdk(DESCRIPTOR, true);
    refused(&cut[..cut.len() - 1536], "vmdk", "footer is missing");
}

#[test]
fn differencing_disks_and_mixtures_are_refused() {
    refused(&vhd(4, true), "vhd", "parent");
    refused(&vhdx(true), "vhdx", "parent");
    refused(&vdi(4), "vdi", "parent");
    refused(b"QED\0 and more", "raw", "no longer maintained");
    refused(&vhdx(false)[..1 << 20], "vhdx", "metadata");
    let mut both = qcow2(3, 1 << 20);
    put(&mut both, 0x8001, b"CD001");
    refused(&both, "qcow2", "several formats at once (qcow2, iso)");
    refused(&both, "raw", "several formats");
    let mut footed = qcow2(3, 1 << 20);
    footed.extend_from_slice(&vhd(2, false)[10_000..]);
    refused(&footed, "qcow2", "several formats at once (qcow2, vhd)");
}

#[test]
fn a_boot_sector_of_a_file_system_is_no_partition_table() {
    let mut file = vec![0; 4096];
    put(&mut file, 400, &[0xcc; 100]);
    put(&mut file, 510, &[0x55, 0xaa]);
    assert!(read(&file, 512).found().is_empty());
}

fn any_sample() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(samples().into_iter().map(|(_, file, _)| file).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// No bytes make it panic, and how they are cut into pieces makes no difference.
    #[test]
    fn any_bytes(mut file in prop::collection::vec(any::<u8>(), 0..3000), magic in 0usize..9, piece in 1usize..700) {
        let magics: [&[u8]; 9] = [b"QFI\xfb\0\0\0\x03", b"KDMV\x01\0\0\0", b"conectix", b"vhdxfile", b"LUKS\xba\xbe", b"QED\0", b"COWD", b"# Disk DescriptorFile", b""];
        put(&mut file, 0, magics[magic]);
        let whole = read(&file, file.len());
        let parts = read(&file, piece);
        prop_assert_eq!(whole.found(), parts.found());
        for declared in ["raw", "qcow2", "vmdk", "vhdx", "ami"] {
            prop_assert_eq!(whole.judge(declared), parts.judge(declared));
        }
    }

    /// Nor does a valid header with some of its bytes changed, or cut off.
    #[test]
    fn changed_headers(mut file in any_sample(), changes in prop::collection::vec((0usize..600, any::<u8>()), 1..20), far in any::<prop::sample::Index>(), length in any::<prop::sample::Index>(), cut in any::<bool>()) {
        for (at, byte) in changes {
            if at < file.len() {
                file[at] = byte;
            }
        }
        if !file.is_empty() {
            let at = far.index(file.len());
            file[at] ^= 0xff;
        }
        if cut && !file.is_empty() {
            file.truncate(length.index(file.len()));
        }
        let inspector = read(&file, 65536);
        for declared in ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso"] {
            let _ = inspector.judge(declared);
        }
    }

    /// What is accepted as QCOW2 has neither backing nor data file, whatever else was changed.
    #[test]
    fn accepted_qcow2_stands_alone(changes in prop::collection::vec((4usize..120, any::<u8>()), 1..6)) {
        let mut file = qcow2(3, 1 << 30);
        for (at, byte) in changes {
            file[at] = byte;
        }
        if read(&file, 65536).judge("qcow2").is_ok() {
            prop_assert!(file[8..16].iter().all(|b| *b == 0));
            prop_assert!(file[4..8] == [0, 0, 0, 2] || file[79] & 4 == 0);
        }
    }
}

/// Headers worth keeping, `services/image/corpus/FORMAT-OUTCOME-WHAT.hex`: the file's size, then where which bytes stand.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let mut all: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let mut file = Vec::new();
            for (place, rest) in text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split_once(' ').unwrap()) {
                if place == "size" {
                    file = vec![0; rest.parse().unwrap()];
                    continue;
                }
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
                let bytes: Vec<u8> = rest.as_bytes().chunks(2).map(byte).collect();
                let at: usize = place.parse().unwrap();
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            (path.file_stem().unwrap().to_str().unwrap().to_string(), file)
        })
        .collect();
    all.sort();
    all
}

#[test]
fn the_corpus_is_judged_as_its_names_say() {
    let corpus = corpus();
    assert!(corpus.len() > 12);
    for (name, file) in &corpus {
        let mut words = name.split('-');
        let (format, outcome) = (words.next().unwrap(), words.next().unwrap());
        for piece in [1 << 20, 4096, 7] {
            let judged = read(file, piece).judge(format);
            match outcome {
                "accepted" => assert!(judged.is_ok(), "{name}: {judged:?}"),
                _ => assert!(judged.is_err() && outcome == "refused", "{name}: {judged:?}"),
            }
        }
    }
}

proptest! {
    /// Nothing that grows from the corpus panics, or depends on how it is cut into pieces.
    #[test]
    fn what_grows_from_the_corpus(one in any::<prop::sample::Index>(), changes in prop::collection::vec((0usize..1200, any::<u8>()), 0..20), length in any::<prop::sample::Index>(), piece in 1usize..5000) {
        let corpus = corpus();
        let mut file = corpus[one.index(corpus.len())].1.clone();
        for (at, byte) in changes {
            if at < file.len() {
                file[at] = byte;
            }
        }
        file.truncate(length.index(file.len() + 1));
        let (whole, parts) = (read(&file, file.len()), read(&file, piece));
        for declared in ["raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks"] {
            prop_assert_eq!(whole.judge(declared), parts.judge(declared));
        }
    }
}

#[test]
fn discs_of_every_kind_are_isos() {
    for name in [b"CD001", b"NSR02", b"NSR03"] {
        let mut file = iso();
        put(&mut file, 0x8001, name);
        assert_eq!(read(&file, 4096).judge("iso"), Ok(Some(60 << 10)));
        put(&mut file, 0x8000, &[2]);
        assert_eq!(read(&file, 4096).judge("iso"), Ok(None));
    }
}

#[test]
fn what_a_guest_has_encrypted_is_raw() {
    let mut file = luks();
    put(&mut file, 7, &[2]);
    refused(&file, "luks", "version 2 is not known to QEMU");
    assert_eq!(read(&file, 4096).judge("raw"), Ok(Some(1 << 20)));
}
