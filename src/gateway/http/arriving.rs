//! The body of a request as it comes from its connection, whichever protocol that speaks.
//!
//! Promises: its reader sees bytes and one kind of error. Does not: bound anything (see `body`, `quic_gate`).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::server::RequestStream;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::quic_gate::{GatedReceiver, Pending};

/// A body on its way to us.
pub(super) enum Arriving {
    /// Over HTTP/1.1 or 2.
    Hyper(Incoming),
    /// Over HTTP/3.
    Quic(RequestStream<GatedReceiver, Bytes>, Pending),
    /// There is none.
    Nothing,
}

/// What a connection says when a body breaks off.
pub(super) type BrokenOff = Box<dyn std::error::Error + Send + Sync>;

impl Body for Arriving {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        let piece = match this {
            Self::Hyper(body) => {
                return Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)));
            }
            Self::Nothing => return Poll::Ready(None),
            Self::Quic(stream, pending) => match ready!(stream.poll_recv_data(context)) {
                Ok(None) => None,
                Ok(Some(mut piece)) => {
                    // What was handed on is no longer gathered.
                    pending.set(0);
                    Some(Ok(Frame::data(piece.copy_to_bytes(piece.remaining()))))
                }
                Err(error) => Some(Err(error.into())),
            },
        };
        if !matches!(piece, Some(Ok(_))) {
            *this = Self::Nothing;
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Quic(..) => false,
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Quic(..) => SizeHint::default(),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
