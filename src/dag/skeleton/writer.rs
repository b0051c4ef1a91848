//! The only hand that writes in a skeleton.
//!
//! Promises: a vertex is admitted after all its parents, in whatever order they are handed over; handing one over twice changes
//! nothing; readers see a vertex complete or not at all.
//! Does not: check ids against content, or turn a vertex away for want of memory to wait in: what is committed is taken, and who
//! proposes asks before by [`staged_bytes`].

use super::classes::{ClassWriter, Classes, OTHER, push_tip, reserve_tip};
use super::column::Column;
use super::git_index::{self, GitIndex, GitWriter, SHA1_WORDS, SHA256_WORDS};
use super::table::{Table, TableWriter};
use super::{LABEL_BLOCK, NO_CHILD, Skeleton, TIMESTAMP_MS_MAX, VERTICES_MAX, id_hash, id_words};
use crate::ids::{LogIndex, ShardId, Token, VertexId};
use crate::limits::LABELS_MAX;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const _: () = assert!(LABELS_MAX <= u8::MAX as usize, "label_counts is a column of bytes");

/// What the skeleton keeps of a vertex.
#[derive(Clone, Copy, Debug)]
pub struct ShapeRef<'a> {
    /// Its id.
    pub id: VertexId,
    /// Its parents; one that is named twice counts once.
    pub parents: &'a [VertexId],
    /// Its timestamp, in milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The hashes of its labels, at most [`LABELS_MAX`].
    pub label_hashes: &'a [u32],
    /// The hash of the git object it was made from: 20 or 32 bytes, another length is as none.
    pub git: Option<&'a [u8]>,
}

/// What became of a vertex that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is visible, and with it those that waited for it.
    Admitted {
        /// How many became visible.
        count: u32,
    },
    /// It waits for a parent.
    Staged,
    /// It was here or waiting already.
    Known,
}

/// The writing side of a skeleton.
pub struct Writer {
    skeleton: Arc<Skeleton>,
    length: u32,
    edge_count: u32,
    label_count: u32,
    table: TableWriter,
    classes: ClassWriter,
    git_sha1: GitWriter<SHA1_WORDS>,
    git_sha256: GitWriter<SHA256_WORDS>,
    staged: HashMap<VertexId, Staged>,
    staged_bytes: u64,
    /// Missing parent → who waits for it.
    waiting: HashMap<VertexId, Vec<VertexId>>,
    /// Numbers of the parents of the vertex at hand.
    parents: Vec<u32>,
}

/// A vertex that waits.
struct Staged {
    missing: usize,
    from: Token,
    parents: Box<[VertexId]>,
    timestamp_ms: u64,
    namespace: Box<str>,
    kind: Box<str>,
    label_hashes: Box<[u32]>,
    git: Option<Box<[u8]>>,
}

impl Staged {
    fn bytes(&self) -> u64 {
        staged_bytes(self.parents.len(), self.label_hashes.len(), self.namespace.len() + self.kind.len())
    }
}

/// Memory of a vertex that waits, in bytes, at most: its entry in a table that may be half empty, its boxes, its git hash.
const STAGED_BYTES: u64 = 512;
/// The same for each parent: its id here, its entry among those that are waited for, and the list of who waits for it.
const STAGED_PARENT_BYTES: u64 = 256;
const _: () = assert!(2 * (size_of::<VertexId>() + size_of::<Staged>() + 1) + 32 + 5 * 16 <= STAGED_BYTES as usize);
const _: () = assert!(
    size_of::<VertexId>() * (1 + 4) + 2 * (size_of::<VertexId>() + size_of::<Vec<VertexId>>() + 1)
        <= STAGED_PARENT_BYTES as usize + 32
);

/// Memory that a vertex takes while it waits for a parent, in bytes, at most.
pub fn staged_bytes(parents: usize, labels: usize, name_bytes: usize) -> u64 {
    STAGED_BYTES + parents as u64 * STAGED_PARENT_BYTES + (labels * size_of::<u32>() + name_bytes) as u64
}

pub(super) fn new(shard_count: u16) -> (Writer, Arc<Skeleton>) {
    // Only the order of probes in a table depends on it, never an answer.
    let seed = RandomState::new().hash_one(0);
    let (table, table_writer) = Table::new();
    let (git_sha1, git_sha1_writer) = GitIndex::new(seed);
    let (git_sha256, git_sha256_writer) = GitIndex::new(seed);
    let skeleton = Arc::new(Skeleton {
        length: AtomicU32::new(0),
        edge_count: AtomicU32::new(0),
        root_count: AtomicU32::new(0),
        tip_count: AtomicU32::new(0),
        staged_count: AtomicU64::new(0),
        staged_bytes: AtomicU64::new(0),
        generation_max: AtomicU32::new(0),
        applied: (0..shard_count).map(|_| AtomicU64::new(0)).collect(),
        ids: Column::new(),
        timestamps_low: Column::new(),
        timestamps_high: Column::new(),
        class: Column::new(),
        generations: Column::new(),
        edge_offsets: Column::new(),
        edge_parents: Column::new(),
        edge_next_children: Column::new(),
        first_children: Column::new(),
        label_counts: Column::new(),
        label_offsets: Column::new(),
        label_hashes: Column::new(),
        table,
        classes: Classes::new(),
        git_sha1,
        git_sha256,
    });
    skeleton.edge_offsets.put(0, 0);
    let writer = Writer {
        skeleton: Arc::clone(&skeleton),
        length: 0,
        edge_count: 0,
        label_count: 0,
        table: table_writer,
        classes: ClassWriter::default(),
        git_sha1: git_sha1_writer,
        git_sha256: git_sha256_writer,
        staged: HashMap::new(),
        staged_bytes: 0,
        waiting: HashMap::new(),
        parents: Vec::new(),
    };
    (writer, skeleton)
}

impl Writer {
    /// Hands over a vertex, found in the entry `index` of a shard's log.
    pub fn apply(&mut self, shard: ShardId, index: LogIndex, shape: ShapeRef<'_>) -> Outcome {
        if self.find(&shape.id).is_some() || self.staged.contains_key(&shape.id) {
            return Outcome::Known;
        }
        if self.find_parents(shape.parents) {
            self.admit(&shape);
            return Outcome::Admitted { count: 1 + self.admit_waiting(shape.id) };
        }
        self.stage(Token { shard, index }, &shape);
        Outcome::Staged
    }

    /// Makes room in the tables for `count` more vertices, of which `git_count` have a git hash (of 20 bytes), so that they are
    /// not moved while many arrive. Worth calling before a recovery or an import; never needed.
    pub fn reserve(&mut self, count: usize, git_count: usize) {
        let skeleton = &*self.skeleton;
        let hash_of = |other| id_hash(&skeleton.id_words(other));
        let number_max = u32::try_from(self.length as usize + count).unwrap_or(VERTICES_MAX).min(VERTICES_MAX);
        self.table.reserve(&skeleton.table, count, number_max, hash_of);
        self.git_sha1.reserve(&skeleton.git_sha1, git_count, number_max);
    }

    /// Declares all entries of a shard up to `index` handed over.
    pub fn advance(&mut self, shard: ShardId, index: LogIndex) {
        let applied = &self.skeleton.applied[usize::from(shard.0)];
        let was = applied.load(Ordering::Relaxed);
        assert!(was <= index.0, "the applied index of shard {} went back: {was} -> {}", shard.0, index.0);
        applied.store(index.0, Ordering::Release);
    }

    /// Vertices that wait for a parent.
    pub fn staged_count(&self) -> usize {
        self.staged.len()
    }

    /// Up to `count_max` of the parents that are waited for, and where a vertex that waits for each was found.
    pub fn missing_parents(&self, count_max: usize) -> Vec<(VertexId, Token)> {
        let found = |children: &Vec<VertexId>| Some(self.staged.get(children.first()?)?.from);
        self.waiting.iter().filter_map(|(id, children)| Some((*id, found(children)?))).take(count_max).collect()
    }

    /// The shape being written.
    pub fn skeleton(&self) -> &Arc<Skeleton> {
        &self.skeleton
    }

    fn find(&self, id: &VertexId) -> Option<u32> {
        let words = id_words(id);
        self.table.find(id_hash(&words), |number| self.skeleton.id_words(number) == words)
    }

    /// Fills `self.parents`, each once; false when one is not here.
    fn find_parents(&mut self, parents: &[VertexId]) -> bool {
        self.parents.clear();
        for parent in parents {
            let Some(number) = self.find(parent) else { return false };
            // At most PARENTS_MAX of them, nearly always one or two.
            if !self.parents.contains(&number) {
                self.parents.push(number);
            }
        }
        true
    }

    fn stage(&mut self, from: Token, shape: &ShapeRef<'_>) {
        let mut missing = 0;
        for (at, parent) in shape.parents.iter().enumerate() {
            if self.find(parent).is_none() && !shape.parents[..at].contains(parent) {
                self.waiting.entry(*parent).or_default().push(shape.id);
                missing += 1;
            }
        }
        let staged = Staged {
            missing,
            from,
            parents: shape.parents.into(),
            timestamp_ms: shape.timestamp_ms,
            namespace: shape.namespace.into(),
            kind: shape.kind.into(),
            label_hashes: shape.label_hashes.into(),
            git: shape.git.map(Into::into),
        };
        self.staged_bytes += staged.bytes();
        self.staged.insert(shape.id, staged);
        self.tell_staged();
    }

    /// Admits whoever waited for `id` alone, and who waited for them; returns how many.
    fn admit_waiting(&mut self, id: VertexId) -> u32 {
        if self.waiting.is_empty() {
            return 0;
        }
        let (mut count, mut admitted) = (0, vec![id]);
        while let Some(id) = admitted.pop() {
            for child in self.waiting.remove(&id).unwrap_or_default() {
                let Some(staged) = self.staged.get_mut(&child) else { continue };
                staged.missing -= 1;
                if staged.missing == 0
                    && let Some(staged) = self.staged.remove(&child)
                {
                    self.staged_bytes -= staged.bytes();
                    assert!(self.find_parents(&staged.parents), "a parent that was here is gone");
                    self.admit(&ShapeRef {
                        id: child,
                        parents: &staged.parents,
                        timestamp_ms: staged.timestamp_ms,
                        namespace: &staged.namespace,
                        kind: &staged.kind,
                        label_hashes: &staged.label_hashes,
                        git: staged.git.as_deref(),
                    });
                    count += 1;
                    admitted.push(child);
                }
            }
        }
        self.tell_staged();
        count
    }

    fn tell_staged(&self) {
        self.skeleton.staged_count.store(self.staged.len() as u64, Ordering::Relaxed);
        self.skeleton.staged_bytes.store(self.staged_bytes, Ordering::Relaxed);
    }

    /// Makes a vertex visible whose parents stand in `self.parents`.
    fn admit(&mut self, shape: &ShapeRef<'_>) {
        let number = self.length;
        assert!(number < VERTICES_MAX, "the skeleton is full: {number} vertices");
        let class = self.classes.class(&self.skeleton.classes, shape.namespace, shape.kind);
        self.put_own(number, class, shape);
        self.put_edges(number, class);
        self.put_names(number, shape);
        self.length = number + 1;
        self.skeleton.edge_count.store(self.edge_count, Ordering::Relaxed);
        self.skeleton.length.store(self.length, Ordering::Release);
    }

    /// What belongs to the vertex alone.
    fn put_own(&mut self, number: u32, class: u16, shape: &ShapeRef<'_>) {
        let (skeleton, index) = (&*self.skeleton, number as usize);
        for (word, value) in id_words(&shape.id).into_iter().enumerate() {
            skeleton.ids.put(index * super::ID_WORDS + word, value);
        }
        let timestamp_ms = shape.timestamp_ms.min(TIMESTAMP_MS_MAX);
        skeleton.timestamps_low.put(index, timestamp_ms as u32);
        skeleton.timestamps_high.put(index, (timestamp_ms >> 32) as u16);
        skeleton.class.put(index, class);
        skeleton.first_children.put(index, NO_CHILD);
        let labels = &shape.label_hashes[..shape.label_hashes.len().min(LABELS_MAX)];
        if index.is_multiple_of(LABEL_BLOCK) {
            skeleton.label_offsets.put(index / LABEL_BLOCK, self.label_count);
        }
        skeleton.label_counts.put(index, labels.len() as u8);
        for &hash in labels {
            skeleton.label_hashes.put(self.label_count as usize, hash);
            self.label_count = self.label_count.checked_add(1).expect("fewer than 2^32 labels");
        }
    }

    /// The edges, the generation they give, and the tips they change.
    fn put_edges(&mut self, number: u32, class: u16) {
        let (skeleton, index) = (&*self.skeleton, number as usize);
        if class != OTHER
            && let Some(class) = skeleton.classes.get(class)
        {
            reserve_tip(&skeleton.classes, &class.namespace, |tip| {
                skeleton.first_children.get(tip as usize) == NO_CHILD
            });
            push_tip(&class.namespace, number);
        }
        let first_edge = self.edge_count as usize;
        self.edge_count = self.edge_count.checked_add(self.parents.len() as u32).expect("fewer than 2^32 edges");
        skeleton.edge_offsets.put(index + 1, self.edge_count);
        let (mut generation, mut tips_lost) = (0, 0);
        for (at, &parent) in self.parents.iter().enumerate() {
            let next = skeleton.first_children.get(parent as usize);
            tips_lost += u32::from(next == NO_CHILD);
            skeleton.edge_parents.put(first_edge + at, parent);
            skeleton.edge_next_children.put(first_edge + at, next);
            generation = generation.max(skeleton.generations.get(parent as usize));
        }
        generation += 1;
        skeleton.generations.put(index, generation);
        // Linked only now: a reader that meets this child under one parent searches all its edges.
        for &parent in &self.parents {
            skeleton.first_children.cell(parent as usize).store(number, Ordering::Release);
        }
        skeleton.generation_max.fetch_max(generation, Ordering::Relaxed);
        skeleton.root_count.fetch_add(u32::from(self.parents.is_empty()), Ordering::Relaxed);
        skeleton.tip_count.store(skeleton.tip_count.load(Ordering::Relaxed) + 1 - tips_lost, Ordering::Relaxed);
    }

    /// The ways from a name to the vertex.
    fn put_names(&mut self, number: u32, shape: &ShapeRef<'_>) {
        let skeleton = &*self.skeleton;
        let sha1 = shape.git.and_then(git_index::words_of);
        let sha256 = shape.git.and_then(git_index::words_of);
        self.git_sha1.put(&skeleton.git_sha1, number, sha1.as_ref());
        self.git_sha256.put(&skeleton.git_sha256, number, sha256.as_ref());
        let words = id_words(&shape.id);
        let hash_of = |other| id_hash(&skeleton.id_words(other));
        self.table.insert(&skeleton.table, id_hash(&words), number, |_| false, hash_of);
    }
}
