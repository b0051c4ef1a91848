//! Cursors of lists of refs: where the page before ended, in a form that clients do not read.
//!
//! Promises: a cursor that this door did not give is refused. Does not: cover walks, whose cursors are the query's own.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::fault::Fault;
use crate::dag::refs::RefName;

/// The first letter of every cursor over refs: it tells ours from others, and this form from later ones.
const MARK: char = 'r';

/// The cursor behind the ref `name`.
pub(super) fn cursor_after(name: &RefName) -> String {
    URL_SAFE_NO_PAD.encode(format!("{MARK}{name}"))
}

/// The ref behind which a page begins.
///
/// # Errors
/// Invalid params.
pub(super) fn after(cursor: &str) -> Result<RefName, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let name = text.as_deref().and_then(|text| text.strip_prefix(MARK)).and_then(|name| name.parse().ok());
    name.ok_or_else(|| Fault::invalid_params("the cursor is not one that this list gave"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

    use super::*;

    #[test]
    fn s3_2_10_a_cursor_leads_behind_its_ref_and_others_are_refused() {
        let name: RefName = "heads/größe".parse().unwrap();
        assert_eq!(after(&cursor_after(&name)), Ok(name));
        for wrong in ["", "x", "heads/main", &URL_SAFE_NO_PAD.encode("r"), &URL_SAFE_NO_PAD.encode("xheads/main")] {
            assert!(after(wrong).is_err(), "{wrong:?}");
        }
    }
}
