//! The shape of the DAG in memory: who the parents and children of a vertex are, how deep it lies, what it is.
//!
//! Promises: one writer, any number of readers on other threads, no lock. A [`View`] is a snapshot: the same question gets the
//! same answer from it however much is written meanwhile. A parent's number is lower than its child's. About 95 bytes a vertex.
//! Does not: hold payloads, know shards' logs, or forget. It is derived, and can be dropped and built anew from the feeds.

mod classes;
mod column;
mod git_index;
mod published;
mod table;
#[cfg(test)]
pub(in crate::dag) mod tests;
mod writer;

pub use classes::CLASSES_MAX;
pub use writer::{Outcome, ShapeRef, Writer, staged_bytes};

use crate::ids::{LogIndex, ShardId, VertexId};
use classes::Classes;
use column::Column;
use git_index::{GitIndex, SHA1_WORDS, SHA256_WORDS};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use table::Table;

/// Words of an id, of eight bytes each.
const ID_WORDS: usize = 4;
/// Vertices that share one offset into the label hashes.
const LABEL_BLOCK: usize = 16;
/// No child: vertex 0 is nobody's child, since a parent has a lower number.
const NO_CHILD: u32 = 0;
/// Vertices of a skeleton.
pub const VERTICES_MAX: u32 = u32::MAX - 2;
/// Timestamps are kept in 48 bits: a later moment (after the year 10,000) is taken for this one, in milliseconds.
pub const TIMESTAMP_MS_MAX: u64 = (1 << 48) - 1;

/// A vertex in the order of admission. A parent's number is lower than its child's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u32);

impl Number {
    /// The number as an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The shape, as readers share it.
pub struct Skeleton {
    /// Vertices that readers may see. Stored last, with release.
    length: AtomicU32,
    edge_count: AtomicU32,
    root_count: AtomicU32,
    tip_count: AtomicU32,
    staged_count: AtomicU64,
    staged_bytes: AtomicU64,
    generation_max: AtomicU32,
    /// Per shard: the highest index whose entry, and all before, were handed over.
    applied: Box<[AtomicU64]>,

    ids: Column<AtomicU64>,
    timestamps_low: Column<AtomicU32>,
    timestamps_high: Column<AtomicU16>,
    class: Column<AtomicU16>,
    generations: Column<AtomicU32>,
    /// Element n is where the edges of vertex n begin, element n + 1 where they end.
    edge_offsets: Column<AtomicU32>,
    /// The parent at the end of each edge.
    edge_parents: Column<AtomicU32>,
    /// The next child of that parent, older than this edge's.
    edge_next_children: Column<AtomicU32>,
    /// The newest child of each vertex.
    first_children: Column<AtomicU32>,
    label_counts: Column<AtomicU8>,
    /// Where the label hashes of each block of vertices begin.
    label_offsets: Column<AtomicU32>,
    label_hashes: Column<AtomicU32>,

    table: Table,
    classes: Classes,
    git_sha1: GitIndex<SHA1_WORDS>,
    git_sha256: GitIndex<SHA256_WORDS>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Vertices that a view sees.
    pub vertices: u32,
    /// Edges from a vertex to a parent.
    pub edges: u32,
    /// Vertices without parents.
    pub roots: u32,
    /// Vertices without children.
    pub tips: u32,
    /// Vertices that wait for a parent.
    pub staged: u64,
    /// Memory that those take, in bytes ([`staged_bytes`]).
    pub staged_bytes: u64,
    /// The greatest generation.
    pub generation_max: u32,
}

/// A new, empty skeleton for the records of `shard_count` shards, and the only hand that may write in it.
pub fn new(shard_count: u16) -> (Writer, Arc<Skeleton>) {
    writer::new(shard_count)
}

impl Skeleton {
    /// What is there now.
    pub fn view(&self) -> View<'_> {
        // Acquire pairs with the writer's release: all that belongs to these vertices is visible.
        View { skeleton: self, length: self.length.load(Ordering::Acquire) }
    }

    /// What was there when `length` vertices were; `None` when there have never been so many.
    pub fn view_at(&self, length: u32) -> Option<View<'_>> {
        (length <= self.length.load(Ordering::Acquire)).then_some(View { skeleton: self, length })
    }

    /// The highest index of the shard's log up to which all was handed over; 0 when nothing was, or there is no such shard.
    pub fn applied(&self, shard: ShardId) -> LogIndex {
        LogIndex(self.applied.get(usize::from(shard.0)).map_or(0, |index| index.load(Ordering::Acquire)))
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        Counts {
            vertices: self.length.load(Ordering::Acquire),
            edges: self.edge_count.load(Ordering::Relaxed),
            roots: self.root_count.load(Ordering::Relaxed),
            tips: self.tip_count.load(Ordering::Relaxed),
            staged: self.staged_count.load(Ordering::Relaxed),
            staged_bytes: self.staged_bytes.load(Ordering::Relaxed),
            generation_max: self.generation_max.load(Ordering::Relaxed),
        }
    }

    /// Memory of the skeleton, in bytes, without what is staged. Looks at every piece of every column, so it is no part of what
    /// every question about the node asks.
    pub fn bytes(&self) -> usize {
        let columns = [&self.timestamps_low, &self.generations, &self.edge_offsets, &self.edge_parents]
            .into_iter()
            .chain([&self.edge_next_children, &self.first_children, &self.label_offsets, &self.label_hashes])
            .map(Column::bytes)
            .sum::<usize>();
        columns
            + self.ids.bytes()
            + self.timestamps_high.bytes()
            + self.class.bytes()
            + self.label_counts.bytes()
            + self.table.bytes()
            + self.classes.bytes()
            + self.git_sha1.bytes()
            + self.git_sha256.bytes()
    }

    /// A snapshot, and in ascending order every number not below `from` that may be a tip in it, of one namespace or of all.
    /// `None` when no vertex of that namespace was ever seen.
    pub(in crate::dag) fn tip_candidates(
        &self,
        namespace: Option<&str>,
        from: Number,
    ) -> Option<(View<'_>, Vec<Number>)> {
        // A list loaded after this moment has every tip below `before`: a vertex is in its list before it is published.
        let before = self.view();
        let wanted = |name: &str| namespace.is_none_or(|wanted| wanted == name);
        let mut found = false;
        let mut numbers = Vec::new();
        for (class, entry) in self.classes.iter() {
            if class == entry.namespace.class_first && wanted(&entry.namespace.name) {
                found = true;
                let list = entry.namespace.tips.load();
                numbers.extend(list.candidates().filter(|&number| number < before.length && from.0 <= number));
            }
        }
        // A list may have been compacted since `before`, but what it left out has a child below `view`; what was pushed into a
        // list after we read it lies between the two.
        let view = self.view();
        let fresh = before.length.max(from.0)..view.length;
        numbers.extend(fresh.filter(|&number| view.namespace(Number(number)).is_some_and(wanted)));
        if !found && numbers.is_empty() && namespace.is_some() {
            return None;
        }
        numbers.sort();
        Some((view, numbers.into_iter().map(Number).collect()))
    }
}

/// A snapshot of the skeleton: its first `len` vertices and the edges among them.
///
/// A [`Number`] handed to a view must come from this skeleton and be below [`View::len`]; another ends in a panic.
#[derive(Clone, Copy)]
pub struct View<'a> {
    skeleton: &'a Skeleton,
    length: u32,
}

impl<'a> View<'a> {
    /// Vertices in the snapshot.
    #[inline]
    pub fn len(&self) -> u32 {
        self.length
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// An upper bound of the generations in it.
    pub fn generation_bound(&self) -> u32 {
        self.skeleton.generation_max.load(Ordering::Relaxed)
    }

    /// The number of a vertex, if it is here.
    pub fn number(&self, id: &VertexId) -> Option<Number> {
        let words = id_words(id);
        let found = self.skeleton.table.find(id_hash(&words), |number| self.skeleton.id_words(number) == words);
        found.filter(|&number| number < self.length).map(Number)
    }

    /// Whether a vertex is here.
    pub fn contains(&self, id: &VertexId) -> bool {
        self.number(id).is_some()
    }

    /// The first vertex made from the git object with this hash (20 or 32 bytes).
    pub fn by_git(&self, hash: &[u8]) -> Option<Number> {
        let found = if let Some(words) = git_index::words_of(hash) {
            self.skeleton.git_sha1.find(&words)
        } else {
            self.skeleton.git_sha256.find(&git_index::words_of(hash)?)
        };
        found.filter(|&number| number < self.length).map(Number)
    }

    /// The id of a vertex.
    pub fn id(&self, number: Number) -> VertexId {
        let mut id = [0; 32];
        for (bytes, word) in id.as_chunks_mut().0.iter_mut().zip(self.skeleton.id_words(self.check(number).0)) {
            *bytes = word.to_le_bytes();
        }
        VertexId(id)
    }

    /// The hash of the git object that the vertex was made from (20 or 32 bytes).
    pub fn git(&self, number: Number) -> Option<Vec<u8>> {
        let number = self.check(number).0;
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sha1 = self.skeleton.git_sha1.get(number).map(|words| bytes(&words));
        sha1.or_else(|| self.skeleton.git_sha256.get(number).map(|words| bytes(&words)))
    }

    /// 1 for a vertex without parents, else one more than the greatest generation of its parents.
    #[inline]
    pub fn generation(&self, number: Number) -> u32 {
        self.skeleton.generations.get(self.check(number).index())
    }

    /// The vertex's own timestamp, in milliseconds since 1970, at most [`TIMESTAMP_MS_MAX`].
    #[inline]
    pub fn timestamp_ms(&self, number: Number) -> u64 {
        let index = self.check(number).index();
        u64::from(self.skeleton.timestamps_high.get(index)) << 32 | u64::from(self.skeleton.timestamps_low.get(index))
    }

    /// The vertex's kind; `None` when it came after the last that fits ([`CLASSES_MAX`]).
    pub fn kind(&self, number: Number) -> Option<&'a str> {
        Some(&self.skeleton.classes.get(self.class(number))?.kind)
    }

    /// The vertex's namespace; `None` when it came after the last that fits ([`CLASSES_MAX`]).
    pub fn namespace(&self, number: Number) -> Option<&'a str> {
        Some(&self.skeleton.classes.get(self.class(number))?.namespace.name)
    }

    /// The hashes of the vertex's labels.
    pub fn label_hashes(&self, number: Number) -> impl Iterator<Item = u32> + use<'a> {
        let index = self.check(number).index();
        let skeleton = self.skeleton;
        let block = index / LABEL_BLOCK;
        let before: usize = (block * LABEL_BLOCK..index).map(|n| usize::from(skeleton.label_counts.get(n))).sum();
        let start = skeleton.label_offsets.get(block) as usize + before;
        let count = usize::from(skeleton.label_counts.get(index));
        (start..start + count).map(move |at| skeleton.label_hashes.get(at))
    }

    /// The parents, each once, in the vertex's own order.
    #[inline]
    pub fn parents(&self, number: Number) -> impl ExactSizeIterator<Item = Number> + use<'a> {
        let skeleton = self.skeleton;
        self.parent_edges(number).map(move |edge| Number(skeleton.edge_parents.get(edge)))
    }

    /// The children, the newest first.
    pub fn children(&self, number: Number) -> impl Iterator<Item = Number> + use<'a> {
        let view = *self;
        std::iter::successors(view.first_child(number), move |&child| view.next_child(number, child))
    }

    /// Whether the vertex has no child.
    pub fn is_tip(&self, number: Number) -> bool {
        self.first_child(number).is_none()
    }

    /// The edges of a vertex, as places that [`View::edge_parent`] reads.
    #[inline]
    pub(in crate::dag) fn parent_edges(&self, number: Number) -> std::ops::Range<usize> {
        let index = self.check(number).index();
        let offsets = &self.skeleton.edge_offsets;
        offsets.get(index) as usize..offsets.get(index + 1) as usize
    }

    /// The parent at the end of an edge.
    #[inline]
    pub(in crate::dag) fn edge_parent(&self, edge: usize) -> Number {
        Number(self.skeleton.edge_parents.get(edge))
    }

    /// The newest child in the snapshot.
    pub(in crate::dag) fn first_child(&self, number: Number) -> Option<Number> {
        let cell = self.skeleton.first_children.cell(self.check(number).index());
        // Acquire pairs with the writer's release: the edges of a child not yet published are readable.
        self.skip_unseen(number, cell.load(Ordering::Acquire))
    }

    /// The child after `child`, which is older.
    pub(in crate::dag) fn next_child(&self, parent: Number, child: Number) -> Option<Number> {
        self.skip_unseen(parent, self.skeleton.next_child(parent.0, child.0))
    }

    /// Children are in descending order, so those beyond the snapshot stand first.
    fn skip_unseen(&self, parent: Number, mut child: u32) -> Option<Number> {
        while self.length <= child {
            child = self.skeleton.next_child(parent.0, child);
        }
        (child != NO_CHILD).then_some(Number(child))
    }

    #[inline]
    pub(in crate::dag) fn class(&self, number: Number) -> u16 {
        self.skeleton.class.get(self.check(number).index())
    }

    /// For each class, whether it is of that namespace and kind; `None` when words of some vertices were not kept.
    pub(in crate::dag) fn classes_of(&self, namespace: Option<&str>, kind: Option<&str>) -> Option<Vec<bool>> {
        let classes = &self.skeleton.classes;
        if classes.overflowed() {
            return None;
        }
        let fits = |wanted: Option<&str>, word: &str| wanted.is_none_or(|wanted| wanted == word);
        Some(
            classes
                .iter()
                .map(|(_, class)| fits(namespace, &class.namespace.name) && fits(kind, &class.kind))
                .collect(),
        )
    }

    #[inline]
    fn check(&self, number: Number) -> Number {
        assert!(number.0 < self.length, "vertex {} is beyond the snapshot's {}", number.0, self.length);
        number
    }
}

impl Skeleton {
    #[inline]
    fn id_words(&self, number: u32) -> [u64; ID_WORDS] {
        std::array::from_fn(|word| self.ids.get(number as usize * ID_WORDS + word))
    }

    /// The child after `child` in the list of `parent`: it stands beside the edge from `child` to `parent`.
    fn next_child(&self, parent: u32, child: u32) -> u32 {
        let start = self.edge_offsets.get(child as usize) as usize;
        let edge = (start..).find(|&edge| self.edge_parents.get(edge) == parent);
        edge.map_or(NO_CHILD, |edge| self.edge_next_children.get(edge))
    }
}

fn id_words(id: &VertexId) -> [u64; ID_WORDS] {
    let words = id.0.as_chunks().0;
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

/// An id is a hash already. Its first bytes choose the slot, so others are taken here.
#[inline]
fn id_hash(words: &[u64; ID_WORDS]) -> u64 {
    words[1]
}
