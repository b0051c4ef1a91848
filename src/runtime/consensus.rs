//! The event loop as consensus asks for it: tasks, timers and channels of the core that it runs on.
//!
//! Promises: a simulation that set a seed gets the same chances, and the same order of wake-ups, every time.
//! Does not: change anything else about tokio's current-thread loop.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use rand::TryRng;
use rand::rngs::ThreadRng;

use super::watch::CoreWatch;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's consensus draws its election times from `seed` instead of the operating system's generator. For
/// simulations.
pub fn seed_chance(seed: u64) {
    SEEDED.set(Some(seed));
}

/// A generator of the thread it is on.
#[derive(Debug)]
pub enum Chance {
    /// Seeded by the operating system.
    System(ThreadRng),
    /// Seeded by [`seed_chance`].
    Seeded,
}

impl Chance {
    fn next(&mut self) -> u64 {
        match self {
            Self::System(generator) => rand::Rng::next_u64(generator),
            Self::Seeded => {
                // SplitMix64: small, seeded, good enough to choose times.
                let state = SEEDED.get().unwrap_or_default().wrapping_add(0x9e37_79b9_7f4a_7c15);
                SEEDED.set(Some(state));
                let mut mixed = state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
        }
    }
}

impl TryRng for Chance {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// See the file.
#[derive(Debug)]
pub struct ConsensusRuntime(TokioRuntime);

impl AsyncRuntime for ConsensusRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R>> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = Chance;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = CoreWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R>>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R>>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Chance {
        if SEEDED.get().is_some() { Chance::Seeded } else { Chance::System(TokioRuntime::thread_rng()) }
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn s1_2_7_the_loop_keeps_every_promise_that_consensus_tests() {
        openraft::rt::testing::Suite::<ConsensusRuntime>::test_all();
    }

    #[test]
    fn s1_2_7_a_seeded_thread_draws_the_same_chances_again() {
        let draw = || {
            seed_chance(7);
            [ConsensusRuntime::thread_rng().next_u64(), ConsensusRuntime::thread_rng().next_u64()]
        };
        let (first, second) = (draw(), draw());
        assert_eq!(first, second);
        assert_ne!(first[0], first[1]);
    }
}
