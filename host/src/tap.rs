//! Opening a tap that the switch has made, to hand it to a guest.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;

use base::error::Internal;
use base::{Error, Result};
use nix::libc;

nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, std::mem::size_of::<libc::c_int>()), libc::ifreq);

/// Attaches to a persistent tap. A tap that does not exist is an error and is not made: it would be nobody's.
pub fn open(name: &str) -> Result<File> {
    if nix::net::if_::if_nametoindex(name).is_err() {
        return Err(Error::unavailable(format!("tap {name} is not there")));
    }
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").internal("cannot open /dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(Error::invalid(format!("tap name {name} is too long")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open and the request a live, initialised structure of the size the call expects.
    unsafe { tun_set_iff(file.as_raw_fd(), &request) }.map_err(|e| match e {
        nix::Error::EBUSY => Error::conflict(format!("tap {name} is in use by another process")),
        e => Error::internal(format!("cannot attach to tap {name}")).caused_by(e),
    })?;
    Ok(file)
}
