//! A ping each 10 ms. The `ping` command waits for times so short by asking over and over, and four of them keep two cores busy: what
//! they measure then is themselves.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket};

const EVERY: Duration = Duration::from_millis(10);
/// Pings that must have been answered, that the longest time without an answer says anything.
const FEW: usize = 20;
/// Length of an IPv4 header without options, which is what comes before an answer, and of an echo without data.
const HEADER: usize = 20;
const ECHO: usize = 8;

/// Pings to an address, until they are asked what they saw.
pub struct Pings {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Instant>>>,
}

impl Pings {
    pub fn begin(address: &str) -> Result<Pings> {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let address: Ipv4Addr = address.parse().with_context(|| format!("`{address}` is no address"))?;
        // Every such socket hears the answers to all of them.
        let identifier = NEXT.fetch_add(1, Ordering::Relaxed);
        let icmp = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::Icmp).context("a socket for pings")?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let thread = std::thread::spawn(move || ping(&icmp, address, identifier, &stop));
        Ok(Pings { over, thread })
    }

    /// The longest time from one answer to the next.
    pub fn gap(self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let Ok(answers) = self.thread.join() else { bail!("the pings broke off") };
        let answers = answers?;
        if answers.len() < FEW {
            bail!("hardly a ping was answered");
        }
        Ok(answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default())
    }
}

fn ping(icmp: &OwnedFd, address: Ipv4Addr, identifier: u16, over: &AtomicBool) -> Result<Vec<Instant>> {
    let to = SockaddrIn::from(std::net::SocketAddrV4::new(address, 0));
    let (mut answers, mut due) = (Vec::new(), Instant::now());
    for sequence in 0u16.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        // One that cannot be sent is one without an answer.
        let _ = sendto(icmp.as_raw_fd(), &echo(identifier, sequence), &to, MsgFlags::empty());
        due += EVERY;
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            ppoll(&mut [PollFd::new(icmp.as_fd(), PollFlags::POLLIN)], Some(left.into()), None).context("waiting for answers")?;
            let mut packet = [0; 128];
            while let Ok(n) = recv(icmp.as_raw_fd(), &mut packet, MsgFlags::empty()) {
                if is_answer(&packet[..n], address, identifier) {
                    answers.push(Instant::now());
                }
            }
        }
    }
    Ok(answers)
}

/// RFC 792, echo message.
fn echo(identifier: u16, sequence: u16) -> [u8; ECHO] {
    let sum = u32::from(0x0800u16) + u32::from(identifier) + u32::from(sequence);
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    let mut echo = [8, 0, 0, 0, 0, 0, 0, 0];
    echo[2..4].copy_from_slice(&checksum.to_be_bytes());
    echo[4..6].copy_from_slice(&identifier.to_be_bytes());
    echo[6..8].copy_from_slice(&sequence.to_be_bytes());
    echo
}

fn is_answer(packet: &[u8], address: Ipv4Addr, identifier: u16) -> bool {
    let echo = packet.len() >= HEADER + ECHO && packet[0] == 0x45 && packet[12..16] == address.octets() && packet[HEADER] == 0;
    echo && packet[HEADER + 4..HEADER + 6] == identifier.to_be_bytes()
}
