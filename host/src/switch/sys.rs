//! The few calls that have no safe wrapper: making a tap or the like, binding a packet socket, loading a program into the kernel.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

nix::ioctl_write_int!(tun_set_persist, b'T', 203);
nix::ioctl_write_int!(tun_set_owner, b'T', 204);
nix::ioctl_write_int!(tun_set_group, b'T', 206);
nix::ioctl_write_ptr!(tun_set_iff, b'T', 202, libc::c_int);

/// A new tap in the namespace of the calling thread that goes when the file is closed, until [`Tap::keep`].
pub struct Tap {
    file: File,
}

impl Tap {
    /// Fails with `EBUSY` or `EINVAL` when the name is taken by something that is no free tap; the caller has
    /// looked before that it does not exist.
    pub fn create(name: &str) -> io::Result<Tap> {
        Ok(Tap { file: attach(name, libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR, libc::O_CLOEXEC)? })
    }
    /// Keeps the tap when this file is closed. Only root may open it: guests get it open.
    pub fn keep(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open and attached to a tap; the calls take plain numbers.
        unsafe {
            tun_set_owner(self.file.as_raw_fd(), 0)?;
            tun_set_group(self.file.as_raw_fd(), 0)?;
            tun_set_persist(self.file.as_raw_fd(), 1)?;
        }
        Ok(())
    }
}

/// A new link in the namespace of the calling thread whose packets (IP, nothing before it) are read from the file, and written to
/// it. It goes when the file is closed; reading does not wait.
pub fn tun_create(name: &str) -> io::Result<File> {
    attach(name, libc::IFF_TUN | libc::IFF_NO_PI, libc::O_CLOEXEC | libc::O_NONBLOCK)
}

fn attach(name: &str, kind: libc::c_int, how: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(how).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid `ifreq` (a name, and a union of integers, addresses and one pointer).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = kind as libc::c_short;
    // SAFETY: the descriptor is open, and the pointer is to a whole `ifreq` that outlives the call, which is
    // what TUNSETIFF reads and writes (its number says `int`, for history's sake).
    unsafe { tun_set_iff(file.as_raw_fd(), (&raw const request).cast()) }?;
    Ok(file)
}

/// A packet socket that sends whole Ethernet frames on one interface, and receives nothing.
pub fn packet_socket(ifindex: u32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just opened and nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex as i32;
    let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is a whole `sockaddr_ll` of the length given and outlives the call.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(fd) }
}

/// An instruction of a program for the kernel (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u8,
    /// The one written to and the one read, four bits each.
    pub registers: u8,
    pub offset: i16,
    pub value: i32,
}

/// What `BPF_PROG_LOAD` reads, as far as it was when classifiers came: the kernel takes the rest as zeroes.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const CLASSIFIER: u32 = 3;

/// Loads a classifier. It goes with the descriptor, and with the last link that it is attached to.
pub fn classifier_load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let load = Load {
        kind: CLASSIFIER,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    // SAFETY: the pointer is to a whole `Load` of the size given; what it points to (the instructions by their count, a text that
    // ends with zero) outlives the call, which only reads.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, std::mem::size_of::<Load>()) };
    match libc::c_int::try_from(fd) {
        // SAFETY: `fd` was just opened and nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
