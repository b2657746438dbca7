//! The server's own clock, which may be wrong on purpose.

use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// The machine's clock, shifted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: SignedDuration,
}

impl Clock {
    pub(crate) fn ahead_by(offset: SignedDuration) -> Self {
        Self { offset }
    }

    pub(crate) fn now(self) -> Timestamp {
        Timestamp::now().saturating_add(self.offset).expect("a duration without calendar units can be added")
    }

    pub(crate) fn system_time(self) -> SystemTime {
        self.now().into()
    }

    pub(crate) fn unix_time(self) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(self.now().as_second()).unwrap_or(0)))
    }

    /// As in the `creationTimestamp` of an object.
    pub(crate) fn object_time(self) -> String {
        format!("{:.0}", self.now())
    }

    /// As in the `Date` header.
    pub(crate) fn http_date(self) -> String {
        self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.unix_time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_shifted_in_every_form() {
        let clock = Clock::ahead_by(SignedDuration::from_hours(-24 * 365 * 60));
        assert!(clock.now() < Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 30));
        let ahead = Clock::ahead_by(SignedDuration::from_hours(1)).now().as_second() - Timestamp::now().as_second();
        assert!((3599..=3600).contains(&ahead), "{ahead}");
        assert!(clock.http_date().ends_with(" GMT"));
        assert_eq!(clock.object_time().len(), "2024-01-01T00:00:00Z".len());
    }
}
