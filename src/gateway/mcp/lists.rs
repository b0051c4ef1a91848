//! Lists of what this node and the servers behind it offer, as one.
//!
//! Promises: rows are sorted by name, whoever gave them; a page goes on behind its cursor however the rest changes meanwhile; a list is
//! answered from what is known, whatever the servers do. Does not: fetch.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::catalogue::{self, Listing};
use super::fault::Fault;
use super::reply::{Cache, Fields};
use crate::gateway::Context;
use crate::gateway::upstream::{Federation, Row};

/// Rows of one page.
const PAGE_ROWS: usize = 250;
/// The first letter of every cursor of these lists.
const MARK: char = 'n';

/// A list with rows of this node's own and of servers behind it.
pub(super) struct Merged {
    own: fn() -> &'static [Listing],
    member: &'static str,
    key: &'static str,
    theirs: fn(&Federation) -> &[Row],
}

/// The tools.
pub(super) const TOOLS: Merged =
    Merged { own: catalogue::tools, member: "tools", key: "name", theirs: |federation| &federation.tools };
/// The prompts.
pub(super) const PROMPTS: Merged =
    Merged { own: catalogue::prompts, member: "prompts", key: "name", theirs: |federation| &federation.prompts };
/// The templates of resources.
pub(super) const TEMPLATES: Merged = Merged {
    own: catalogue::templates,
    member: "resourceTemplates",
    key: "uriTemplate",
    theirs: |federation| &federation.templates,
};

/// A page of a list, as the answer to `id`.
///
/// # Errors
/// Invalid params: no answer of ours has that cursor.
pub(super) fn page(context: &Context, list: &Merged, id: &str, cursor: Option<&str>) -> Result<Fields, Fault> {
    let federation = context.upstreams.current();
    let theirs = (list.theirs)(&federation);
    let own = (list.own)();
    if theirs.is_empty() {
        return catalogue::page(id, own, cursor);
    }
    let after = cursor.map(after).transpose()?;
    let own = own.iter().flat_map(Listing::rows);
    let own = own.map(|row| (row[list.key].as_str().unwrap_or_default(), Cow::Owned(row.to_string())));
    let mut rows: Vec<(&str, Cow<'_, str>)> =
        own.chain(theirs.iter().map(|row| (row.key.as_str(), Cow::Borrowed(row.json.as_str())))).collect();
    rows.sort_by_key(|(name, _)| *name);
    rows.retain(|(name, _)| after.as_deref().is_none_or(|after| after < *name));
    let more = PAGE_ROWS < rows.len();
    rows.truncate(PAGE_ROWS);
    let shown: Vec<&str> = rows.iter().map(|(_, json)| json.as_ref()).collect();
    let shown = format!("[{}]", shown.join(","));
    let mut fields = Fields::open(id, shown.len());
    fields.raw(list.member, shown.as_bytes());
    if let Some((last, _)) = rows.last().filter(|_| more) {
        fields.text("nextCursor", &cursor_after(last));
    }
    fields.cache(Cache::GROWING);
    Ok(fields)
}

/// Sorted rows behind a name, a page of them, and the cursor of the next.
pub(super) fn behind<'r>(rows: &'r [Row], after: Option<&str>) -> (&'r [Row], Option<String>) {
    let begin = after.map_or(0, |after| rows.partition_point(|row| row.key.as_str() <= after));
    let end = (begin + PAGE_ROWS).min(rows.len());
    let page = &rows[begin..end];
    (page, page.last().filter(|_| end < rows.len()).map(|last| cursor_after(&last.key)))
}

fn cursor_after(name: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{MARK}{name}"))
}

/// The name behind which a page begins.
///
/// # Errors
/// Invalid params.
pub(super) fn after(cursor: &str) -> Result<String, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let name = text.as_deref().and_then(|text| text.strip_prefix(MARK)).map(str::to_owned);
    name.ok_or_else(|| Fault::invalid_params("the cursor is not one that this list gave"))
}
