//! The channels between the control thread and the workers.

#[cfg(not(feature = "loom"))]
pub(crate) use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
#[cfg(feature = "loom")]
pub(crate) use watched::{Receiver, RecvTimeoutError, Sender, unbounded};

/// Such that loom watches. Nobody waits: whoever would finds that the time is over.
#[cfg(feature = "loom")]
mod watched {
    pub(crate) use crossbeam_channel::{RecvTimeoutError, SendError, TryRecvError};
    use loom::sync::{Arc, Mutex};
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    pub(crate) struct Sender<T>(Arc<Mutex<VecDeque<T>>>);

    pub(crate) struct Receiver<T>(Arc<Mutex<VecDeque<T>>>);

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let queue = Arc::new(Mutex::new(VecDeque::new()));
        (Sender(queue.clone()), Receiver(queue))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
            self.0.lock().unwrap().push_back(message);
            // Others may go on before what follows: loom lets them before what it watches only.
            drop(self.0.lock());
            Ok(())
        }

        pub(crate) fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn is_empty(&self) -> bool {
            self.0.lock().unwrap().is_empty()
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            self.0.lock().unwrap().pop_front().ok_or(TryRecvError::Empty)
        }

        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.try_recv().map_err(|_| RecvTimeoutError::Timeout)
        }

        pub(crate) fn recv_deadline(&self, _: Instant) -> Result<T, RecvTimeoutError> {
            self.recv_timeout(Duration::ZERO)
        }
    }
}
