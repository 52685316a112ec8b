//! VLANs, by two programs in the kernel (BPF classifiers) and without its 802.1Q devices: decision 0029.
//!
//! A veth leads from a network's own bridge to the machine's bridge of the physical network. On the end in the latter one program
//! puts the network's tag on what comes from the network; the other lets to the network only what has that tag, without it.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::netlink::{self, Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, as_text, find};
use super::sys::{self, Instruction};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// What the program returns is what happens to the frame.
const ACT_DIRECT: u32 = 1;
/// `clsact`, which has a place for classifiers in each direction and no queue.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Where frames are that come in by the link, and those that leave by it.
const COMING: u32 = 0xffff_fff2;
const LEAVING: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 3;
const ONLY: u32 = 1;
/// Counts the programs' releases: those of another one are replaced.
const RELEASE: u32 = 1;

const TAG: u16 = 0x8100;
/// EtherTypes of tags: 802.1Q, 802.1ad, and what was there before the latter.
pub const TAGS: [u16; 3] = [TAG, 0x88a8, 0x9100];

/// Puts the programs of a VLAN on a link, where they are not there. Until it has both the link must not be up.
pub fn settle(netlink: &mut Netlink, index: u32, name: &str, id: u16) -> io::Result<()> {
    let label = format!("sturnus-vlan-{id}-{RELEASE}");
    for (place, program) in [(COMING, tag(id)), (LEAVING, untag(id))] {
        if present(netlink, index, place)? != Some(label.clone()) {
            attach(netlink, index, place, &label, &program)
                .map_err(|e| io::Error::new(e.kind(), format!("VLAN {id} on {name}, by BPF classifiers: {e}")))?;
        }
    }
    Ok(())
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    for (at, number) in [(4, index), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    fixed
}

/// The name of our program at a place.
fn present(netlink: &mut Netlink, index: u32, place: u32) -> io::Result<Option<String>> {
    let filters = netlink.dump(Message::new(RTM_GETTFILTER, 0, &header(index, 0, place, 0)))?;
    let ours = |body: &Vec<u8>| {
        let options = body.get(20..).and_then(|rest| find(rest, TCA_OPTIONS))?;
        find(options, TCA_BPF_NAME).map(as_text)
    };
    Ok(filters.iter().find_map(ours))
}

fn attach(netlink: &mut Netlink, index: u32, place: u32, label: &str, program: &[Instruction]) -> io::Result<()> {
    let qdisc = Message::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &header(index, CLSACT_HANDLE, CLSACT, 0)).text(TCA_KIND, "clsact");
    match netlink.change("make a place for classifiers", qdisc) {
        Err(e) if netlink::is_errno(&e, Errno::EEXIST) => {}
        outcome => outcome?,
    }
    let program = sys::classifier_load(program)?;
    let info = ONLY << 16 | u32::from(ETH_P_ALL.to_be());
    let message = Message::new(RTM_NEWTFILTER, NLM_F_CREATE, &header(index, ONLY, place, info)).text(TCA_KIND, "bpf");
    let message = message
        .nest(TCA_OPTIONS, |m| m.u32(TCA_BPF_FD, program.as_raw_fd() as u32).text(TCA_BPF_NAME, label).u32(TCA_BPF_FLAGS, ACT_DIRECT));
    netlink.change(&format!("attach {label}"), message)
}

// Offsets in `struct __sk_buff`.
const MARK: i16 = 8;
const PROTOCOL: i16 = 16;
const TAG_PRESENT: i16 = 20;
const TAG_CONTROL: i16 = 24;
const TAG_PROTOCOL: i16 = 28;
/// Numbers of the kernel's functions.
const VLAN_PUSH: i32 = 18;
const VLAN_POP: i32 = 19;
const PASS: i32 = 0;
const DROP: i32 = 2;

/// What a guest has tagged itself is dropped: with the tag taken off by a switch on its way, it would be in another VLAN.
fn tag(id: u16) -> Vec<Instruction> {
    let program = Program::default().drop_tagged().unmark().call(VLAN_PUSH, &[wire(TAG), i32::from(id)]);
    program.unless_zero().finish()
}

fn untag(id: u16) -> Vec<Instruction> {
    let program = Program::default().load(TAG_PRESENT).drop_if(0).load(TAG_PROTOCOL).unless(wire(TAG));
    let program = program.load(TAG_CONTROL).and(0x0fff).unless(i32::from(id));
    // A tag within the tag is nobody's here.
    program.unmark().call(VLAN_POP, &[]).unless_zero().drop_tagged().finish()
}

/// An EtherType as the kernel's fields hold it.
fn wire(ethertype: u16) -> i32 {
    i32::from(ethertype.to_be())
}

/// A program that looks at a frame: register 0 is where it computes, 6 holds the frame. All its jumps lead to its end, where frames
/// are dropped.
struct Program(Vec<Instruction>);

impl Default for Program {
    fn default() -> Self {
        Program(Vec::new()).then(MOVE, 6, 1, 0, 0)
    }
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const SET: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const AND: u8 = 0x57;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_OTHER: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

impl Program {
    fn then(mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        self.0.push(Instruction { code, registers, offset, value });
        self
    }
    fn load(self, field: i16) -> Self {
        self.then(LOAD, 0, 6, field, 0)
    }
    fn and(self, bits: i32) -> Self {
        self.then(AND, 0, 0, 0, bits)
    }
    /// Drops the frame unless the last value is this one.
    fn unless(self, value: i32) -> Self {
        self.then(JUMP_OTHER, 0, 0, 0, value)
    }
    fn drop_if(self, value: i32) -> Self {
        self.then(JUMP_EQUAL, 0, 0, 0, value)
    }
    fn unless_zero(self) -> Self {
        self.unless(0)
    }
    /// The tag itself, as the kernel keeps it beside the frame, or one within the frame.
    fn drop_tagged(self) -> Self {
        let program = self.load(TAG_PRESENT).unless_zero().load(PROTOCOL);
        TAGS.iter().fold(program, |program, tag| program.drop_if(wire(*tag)))
    }
    /// Marks name ports of one bridge; the frame is on its way to another.
    fn unmark(self) -> Self {
        self.then(SET, 0, 0, 0, 0).then(STORE, 6, 0, MARK, 0)
    }
    /// A function of the kernel's with the frame and these values.
    fn call(self, function: i32, values: &[i32]) -> Self {
        let program = self.then(MOVE, 1, 6, 0, 0);
        let program = (2..).zip(values).fold(program, |program, (register, value)| program.then(SET, register, 0, 0, *value));
        program.then(CALL, 0, 0, 0, function)
    }
    fn finish(self) -> Vec<Instruction> {
        let mut program = self.then(SET, 0, 0, 0, PASS).then(EXIT, 0, 0, 0, 0).0;
        let end = program.len();
        for (at, instruction) in program.iter_mut().enumerate() {
            if [JUMP_EQUAL, JUMP_OTHER].contains(&instruction.code) {
                instruction.offset = (end - at - 1) as i16;
            }
        }
        Program(program).then(SET, 0, 0, 0, DROP).then(EXIT, 0, 0, 0, 0).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_vlan_programs_are_taken_by_the_kernel() {
        for id in [1, 100, 4094] {
            for program in [tag(id), untag(id)] {
                sys::classifier_load(&program).unwrap();
            }
        }
        // One that reads what is not its own is not.
        assert!(sys::classifier_load(&Program::default().then(LOAD, 0, 6, 4000, 0).finish()).is_err());
    }
}
