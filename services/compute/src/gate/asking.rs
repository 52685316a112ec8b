//! Asking a guest through a host that may hang up meanwhile.

use std::time::Duration;

use base::{Kind, Result};
use rpc::guest::GuestVerdict;

use super::beats::Heart;

/// How long a guest is waited for whose host has hung up. Its own time is known to its host alone; this is what StarlingX gives a vote
/// for which it knows none.
const RETURN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(250);

/// Asks until there is a verdict. A session that ends takes no guest's time away: when the guest is there again it is asked anew, and has
/// all of it.
pub(super) async fn verdict<F>(ask: impl Fn() -> F, heart: impl Fn() -> Heart) -> GuestVerdict
where
    F: Future<Output = Result<GuestVerdict>>,
{
    let mut away = false;
    loop {
        match ask().await {
            Ok(GuestVerdict::Absent) => match heart() {
                Heart::Still => return GuestVerdict::Absent,
                // It is there, and cannot be asked now.
                Heart::Beats if !away => return GuestVerdict::Absent,
                // Its host has begun anew, and the guest with it not yet.
                Heart::Beats | Heart::Unknown => {}
            },
            Ok(verdict) => return verdict,
            Err(error) if error.is(Kind::Unavailable) => {}
            Err(_) => return GuestVerdict::Silent,
        }
        away = true;
        if tokio::time::timeout(RETURN, returned(&heart)).await.is_err() {
            return GuestVerdict::Silent;
        }
    }
}

async fn returned(heart: impl Fn() -> Heart) {
    loop {
        tokio::time::sleep(LOOK).await;
        if heart() != Heart::Unknown {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use base::Error;
    use tokio::time::Instant;

    use super::*;

    const AWAY: Duration = Duration::from_secs(30);
    const THINKS: Duration = Duration::from_secs(9);

    fn gone() -> Result<GuestVerdict> {
        Err(Error::unavailable("the host has hung up"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_whose_host_hangs_up_is_asked_again_when_both_are_back() {
        let (asked, began) = (Cell::new(0), Instant::now());
        let heart = || if began.elapsed() < AWAY { Heart::Unknown } else { Heart::Beats };
        let ask = || async {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => gone(),
                // The host is back before its guest.
                2 => Ok(GuestVerdict::Absent),
                _ => {
                    tokio::time::sleep(THINKS).await;
                    Ok(GuestVerdict::Rejected("no".into()))
                }
            }
        };
        assert_eq!(verdict(ask, heart).await, GuestVerdict::Rejected("no".into()));
        let took = began.elapsed();
        assert!(asked.get() == 3 && took >= AWAY + THINKS && took < AWAY + THINKS + 4 * LOOK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_stays_away_is_silence_after_its_time_and_not_before() {
        let began = Instant::now();
        assert_eq!(verdict(|| async { gone() }, || Heart::Unknown).await, GuestVerdict::Silent);
        let took = began.elapsed();
        assert!(took >= RETURN && took < RETURN + LOOK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_guest_that_has_left() {
        let (asked, began) = (Cell::new(0), Instant::now());
        let ask = || async {
            asked.set(asked.get() + 1);
            if asked.get() == 1 { gone() } else { Ok(GuestVerdict::Absent) }
        };
        assert_eq!(verdict(ask, || Heart::Still).await, GuestVerdict::Absent);
        let took = began.elapsed();
        assert!(asked.get() == 2 && took < 2 * LOOK, "{took:?}");
        assert_eq!(verdict(|| async { Ok(GuestVerdict::Absent) }, || Heart::Beats).await, GuestVerdict::Absent);
        assert_eq!(began.elapsed(), took, "one that stands still is not waited for");
    }
}
