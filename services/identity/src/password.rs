//! Password hashes, made and checked by one thread of low priority: logins never slow down other requests.

use std::time::Duration;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base::{Config, Error, Result, error::Internal};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use tokio::sync::{mpsc, oneshot};

/// Waiting jobs; further callers wait for a place.
const QUEUE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(30);
/// Allocations of more than 32 MiB always go back to the system when they are freed. Only what is used is touched.
const RESERVE_BLOCKS: usize = 33 * 1024;

struct Job {
    password: String,
    /// To check against; none: make a hash.
    stored: Option<String>,
    reply: oneshot::Sender<Result<Outcome>>,
}

enum Outcome {
    Hash(String),
    Matches(bool),
}

/// Cheap to clone. The thread ends when the last handle is gone.
#[derive(Clone)]
pub struct Hasher {
    jobs: mpsc::Sender<Job>,
}

#[derive(Clone)]
enum Cost {
    Argon2(Params),
    Bcrypt(u32),
}

impl Hasher {
    pub fn start(config: &Config) -> Result<Hasher> {
        let passes = u32::try_from(config.int("password.passes")).unwrap_or(u32::MAX);
        let cost = match config.text("password.hash") {
            "argon2id" => {
                let memory = u32::try_from(config.int("password.memory_kib")).unwrap_or(u32::MAX);
                let params = Params::new(memory, passes, 1, Some(32));
                Cost::Argon2(params.map_err(|e| Error::invalid(format!("password.memory_kib or password.passes: {e}")))?)
            }
            "bcrypt" if passes <= 3 => Cost::Bcrypt(12),
            "bcrypt" if passes <= 31 => Cost::Bcrypt(passes),
            "bcrypt" => return Err(Error::invalid("password.passes: bcrypt takes at most 31")),
            other => return Err(Error::invalid(format!("password.hash: `{other}` is neither argon2id nor bcrypt"))),
        };
        let (jobs, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("password".into()).spawn(move || work(queue, &cost)).internal("starting the password thread")?;
        Ok(Hasher { jobs })
    }

    pub async fn hash(&self, password: String) -> Result<String> {
        match self.ask(password, None).await? {
            Outcome::Hash(hash) => Ok(hash),
            Outcome::Matches(_) => Err(Error::internal("the password thread mixed up its answers")),
        }
    }

    /// Takes as long for a user who has no hash (or is not there) as for one who has: nobody can be found by the clock.
    pub async fn verify(&self, password: String, stored: Option<String>) -> Result<bool> {
        let known = stored.is_some();
        match self.ask(password, Some(stored.unwrap_or_default())).await? {
            Outcome::Matches(matches) => Ok(matches && known),
            Outcome::Hash(_) => Err(Error::internal("the password thread mixed up its answers")),
        }
    }

    async fn ask(&self, password: String, stored: Option<String>) -> Result<Outcome> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::internal("the password thread is gone");
        let asked = async {
            self.jobs.send(Job { password, stored, reply }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_| Error::unavailable("Too many logins at once; try again later."))?
    }
}

fn work(mut queue: mpsc::Receiver<Job>, cost: &Cost) {
    // On Linux this is the priority of the calling thread alone.
    if let Err(error) = rustix::process::setpriority_process(None, 10) {
        tracing::warn!("the password thread keeps its priority: {error}");
    }
    let mut memory: Vec<Block> = Vec::new();
    loop {
        let job = match queue.try_recv() {
            Ok(job) => job,
            Err(_) => {
                memory = Vec::new();
                match queue.blocking_recv() {
                    Some(job) => job,
                    None => return,
                }
            }
        };
        // Nobody waits for the answer of a job whose client is gone.
        if job.reply.is_closed() {
            continue;
        }
        let done = match job.stored {
            Some(stored) => verify(cost, &job.password, &stored, &mut memory).map(Outcome::Matches),
            None => hash(cost, &job.password, &mut memory).map(Outcome::Hash),
        };
        let _ = job.reply.send(done);
    }
}

fn hash(cost: &Cost, password: &str, memory: &mut Vec<Block>) -> Result<String> {
    match cost {
        Cost::Argon2(params) => {
            let mut salt = [0u8; 16];
            getrandom::fill(&mut salt).map_err(|e| Error::internal(format!("no random numbers: {e}")))?;
            let output = argon2(params, password, &salt, memory)?;
            let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
            Ok(format!("$argon2id$v=19$m={m},t={t},p={p}${}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(output)))
        }
        Cost::Bcrypt(rounds) => bcrypt::hash(cut(password), *rounds).internal("hashing a password"),
    }
}

fn argon2(params: &Params, password: &str, salt: &[u8], memory: &mut Vec<Block>) -> Result<[u8; 32]> {
    let blocks = params.block_count();
    if memory.len() < blocks {
        memory.reserve_exact(RESERVE_BLOCKS.max(blocks) - memory.len());
        memory.resize(blocks, Block::new());
    }
    let mut output = [0u8; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut output, &mut memory[..blocks])
        .map_err(|e| Error::internal(format!("hashing a password: {e}")))?;
    Ok(output)
}

/// `stored` is empty when there is nothing to compare with: the work is done all the same.
fn verify(cost: &Cost, password: &str, stored: &str, memory: &mut Vec<Block>) -> Result<bool> {
    if stored.starts_with("$2") {
        return Ok(bcrypt::verify(cut(password), stored).unwrap_or(false));
    }
    if let Some((params, salt, wanted)) = parse(stored) {
        let output = argon2(&params, password, &salt, memory)?;
        return Ok(same(&output, &wanted));
    }
    hash(cost, password, memory)?;
    Ok(false)
}

/// bcrypt takes no more than 72 bytes; upstream cuts there too.
fn cut(password: &str) -> &[u8] {
    &password.as_bytes()[..password.len().min(72)]
}

fn parse(stored: &str) -> Option<(Params, Vec<u8>, Vec<u8>)> {
    let mut parts = stored.strip_prefix("$argon2id$v=19$")?.split('$');
    let mut costs = parts.next()?.split(',');
    let mut cost = |name: &str| costs.next()?.strip_prefix(name)?.parse::<u32>().ok();
    let (m, t, p) = (cost("m=")?, cost("t=")?, cost("p=")?);
    let salt = STANDARD_NO_PAD.decode(parts.next()?).ok()?;
    let output = STANDARD_NO_PAD.decode(parts.next()?).ok()?;
    Some((Params::new(m, t, p, Some(32)).ok()?, salt, output))
}

/// In a time that tells nothing about where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hash: &str, passes: &str) -> Config {
        let mut config = Config::for_home("/nonexistent");
        config.set("password.hash", hash);
        config.set("password.memory_kib", "64");
        config.set("password.passes", passes);
        config
    }

    #[tokio::test]
    async fn checks_what_it_made_in_either_form() {
        let argon = Hasher::start(&config("argon2id", "1")).unwrap();
        let bcrypt = Hasher::start(&config("bcrypt", "4")).unwrap();
        for (maker, checker) in [(&argon, &bcrypt), (&bcrypt, &argon)] {
            let stored = maker.hash("secret".into()).await.unwrap();
            assert!(checker.verify("secret".into(), Some(stored.clone())).await.unwrap());
            assert!(!checker.verify("Secret".into(), Some(stored)).await.unwrap());
        }
        assert!(!argon.verify(String::new(), None).await.unwrap());
        assert!(!argon.verify("x".into(), Some("$argon2id$nonsense".into())).await.unwrap());
    }

    #[tokio::test]
    async fn knows_hashes_made_elsewhere() {
        let hasher = Hasher::start(&config("argon2id", "1")).unwrap();
        // From the test vectors of the reference implementations.
        let known = [
            ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
            ("password", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"),
        ];
        for (password, stored) in known {
            assert!(hasher.verify(password.into(), Some(stored.into())).await.unwrap(), "{stored}");
            assert!(!hasher.verify("wrong".into(), Some(stored.into())).await.unwrap());
        }
    }

    #[test]
    fn bad_costs_are_told_at_start() {
        assert!(Hasher::start(&config("argon2id", "0")).is_err());
        assert!(Hasher::start(&config("md5", "1")).is_err());
        assert!(Hasher::start(&config("bcrypt", "40")).is_err());
    }
}
