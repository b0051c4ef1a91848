//! The questions that every door asks, and the machine that answers one in slices.
//!
//! Promises: an answer is that of one snapshot, whatever is admitted meanwhile; pages of one question follow each other without
//! gap or repetition; a cursor of another question or another start of the node is refused.
//! Does not: resolve texts, wait, or read payloads.

use std::fmt;
use std::str::FromStr;

use super::shape::label_hash;
use super::skeleton::{Number, Skeleton, View};
use super::walk::{BestCommon, Closure, Diff, Gate, IsAncestor, Path, Range, Scratch, Sieve, Step, Tips, Topo};
pub use super::walk::{Direction, Order};
use crate::error::{Reason, Refusal};
use crate::ids::{VertexId, hex, unhex};
use crate::limits::{PAGE_MAX, ROOTS_MAX};

/// What is asked, of which vertices, and how much of the answer.
#[derive(Clone, Debug)]
pub struct Query {
    /// What is asked.
    pub verb: Verb,
    /// Which vertices are answered.
    pub filter: Filter,
    /// Vertices of this answer, at most; `None` answers all.
    pub limit: Option<usize>,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The parents, in the vertex's own order.
    Parents(VertexId),
    /// The children, in the order in which they came.
    Children(VertexId),
    /// Ancestors or descendants with the roots.
    Walk {
        /// Where it begins.
        roots: Vec<VertexId>,
        /// Which way it goes.
        direction: Direction,
        /// In which order it answers.
        order: Order,
        /// Edges from the roots, at most.
        depth: Option<u32>,
    },
    /// What `include` reaches and `exclude` does not.
    Range {
        /// Reached.
        include: Vec<VertexId>,
        /// Not reached.
        exclude: Vec<VertexId>,
    },
    /// All ancestors of the roots with them, parents first.
    Topo(Vec<VertexId>),
    /// The best common ancestors.
    BestCommon(Vec<VertexId>),
    /// Whether the first is an ancestor of the second, or the same.
    IsAncestor(VertexId, VertexId),
    /// A shortest chain between two vertices of which one is an ancestor of the other.
    Path(VertexId, VertexId),
    /// What only one of the two reaches, and where they part.
    Diff(VertexId, VertexId),
    /// Vertices without children.
    Tips,
}

/// Which vertices are answered. The default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only this kind.
    pub kind: Option<String>,
    /// Only vertices with all these labels. Compared by a 32-bit hash: one in 2^32 others passes too.
    pub labels: Vec<(String, String)>,
    /// Only from this time on, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only up to this time, in milliseconds since 1970.
    pub until_ms: Option<u64>,
    /// Only from this generation on.
    pub since_generation: Option<u32>,
    /// Only up to this generation.
    pub until_generation: Option<u32>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Vertices, and where the next page begins.
    Vertices {
        /// Their numbers.
        numbers: Vec<Number>,
        /// `None` when there is no more.
        cursor: Option<Cursor>,
    },
    /// Yes or no.
    Bool(bool),
    /// A chain, both ends included; `None` when there is none.
    Path(Option<Vec<Number>>),
    /// The two differences and the best common ancestors.
    Diff {
        /// What only the first reaches.
        only_a: Vec<Number>,
        /// What only the second reaches.
        only_b: Vec<Number>,
        /// Where they part.
        bases: Vec<Number>,
    },
}

/// Where a page ended: valid for one question and one start of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    boot: u64,
    question: u64,
    length: u32,
    /// Vertices answered before; for tips, the number from which to go on.
    skip: u32,
}

/// Version of a cursor's text.
const CURSOR_VERSION: u8 = 1;
/// Bytes of a cursor before they are written as text.
const CURSOR_BYTES: usize = 25;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![CURSOR_VERSION];
        bytes.extend_from_slice(&self.boot.to_le_bytes());
        bytes.extend_from_slice(&self.question.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.skip.to_le_bytes());
        f.write_str(&hex(&bytes))
    }
}

impl FromStr for Cursor {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let malformed = || Refusal::bad_request("the cursor is not one of ours; take it from the page before as it is");
        let bytes = if text.len() == 2 * CURSOR_BYTES { unhex(text) } else { None }.ok_or_else(malformed)?;
        if bytes[0] != CURSOR_VERSION {
            return Err(malformed());
        }
        let number = |from: usize, to: usize| {
            bytes[from..to].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
        };
        Ok(Self {
            boot: number(1, 9),
            question: number(9, 17),
            length: number(17, 21) as u32,
            skip: number(21, 25) as u32,
        })
    }
}

impl Query {
    /// A question about all vertices, answered whole.
    pub fn new(verb: Verb) -> Self {
        Self { verb, filter: Filter::default(), limit: None, cursor: None }
    }

    /// What tells this question from others: the limit may change from page to page.
    fn fingerprint(&self) -> u64 {
        let digest = blake3::hash(format!("{:?} {:?}", self.verb, self.filter).as_bytes());
        digest.as_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }
}

/// Answers one question, step by step. It owns its working memory; give it back to others with [`Machine::into_scratch`].
pub struct Machine {
    length: u32,
    scratch: Scratch,
    gate: Gate,
    walk: Walk,
    /// What a cursor of this question carries.
    boot: u64,
    question: u64,
    skipped: u32,
}

enum Walk {
    /// Found at once; passed through the gate from here on.
    List(std::vec::IntoIter<Number>),
    Closure(Box<Closure>),
    Range(Box<Range>),
    Topo(Box<Topo>),
    BestCommon(Box<BestCommon>),
    IsAncestor(IsAncestor),
    Path(Path),
    Diff(Box<Diff>),
    Tips(Tips),
}

impl Machine {
    /// Prepares the answer to a question. `boot` is the number of this start of the node.
    ///
    /// # Errors
    /// NotFound for a vertex that is not in the graph, LimitExceeded, CursorExpired, BadRequest.
    pub fn new(query: Query, skeleton: &Skeleton, boot: u64) -> Result<Self, Refusal> {
        Self::with_scratch(query, skeleton, boot, Scratch::new())
    }

    /// The same with working memory of an earlier machine.
    ///
    /// # Errors
    /// As [`Machine::new`].
    pub fn with_scratch(query: Query, skeleton: &Skeleton, boot: u64, mut scratch: Scratch) -> Result<Self, Refusal> {
        let question = if query.limit.is_some() || query.cursor.is_some() { query.fingerprint() } else { 0 };
        let expired = || Refusal::new(Reason::CursorExpired, "the cursor is of another start of this node; ask anew");
        let mut skipped = 0;
        let mut view = skeleton.view();
        if let Some(cursor) = query.cursor {
            if cursor.question != question {
                return Err(Refusal::bad_request("the cursor is of another question; ask what was asked before"));
            }
            if cursor.boot != boot {
                return Err(expired());
            }
            view = skeleton.view_at(cursor.length).ok_or_else(expired)?;
            skipped = cursor.skip;
        }
        let is_tips = query.verb == Verb::Tips;
        let gate = Gate::new(sieve(&view, &query.filter)?, if is_tips { 0 } else { skipped }, query.limit);
        let numbers = |ids: &[VertexId]| -> Result<Vec<Number>, Refusal> {
            if ROOTS_MAX < ids.len() {
                return Err(Refusal::limit("vertices of one question", ids.len(), ROOTS_MAX, "vertices"));
            }
            ids.iter().map(|id| number(&view, id)).collect()
        };
        let one = |id: &VertexId| number(&view, id);
        let walk = match &query.verb {
            Verb::Parents(id) => Walk::List(view.parents(one(id)?).collect::<Vec<_>>().into_iter()),
            Verb::Children(id) => {
                let mut children: Vec<Number> = view.children(one(id)?).collect();
                children.sort_unstable();
                Walk::List(children.into_iter())
            }
            Verb::Walk { roots, direction, order, depth } => {
                let roots = numbers(roots)?;
                let closure = Closure::new(&view, &mut scratch, &gate, &roots, *direction, *order, *depth, true);
                Walk::Closure(Box::new(closure))
            }
            Verb::Range { include, exclude } => {
                let (include, exclude) = (numbers(include)?, numbers(exclude)?);
                Walk::Range(Box::new(Range::new(&view, &mut scratch, &include, &exclude)))
            }
            Verb::Topo(roots) => Walk::Topo(Box::new(Topo::new(&view, &mut scratch, &numbers(roots)?))),
            Verb::BestCommon(ids) => {
                if ids.is_empty() {
                    return Err(Refusal::bad_request("name at least one vertex"));
                }
                Walk::BestCommon(Box::new(BestCommon::new(&view, &mut scratch, &numbers(ids)?)))
            }
            Verb::IsAncestor(a, b) => Walk::IsAncestor(IsAncestor::new(&view, &mut scratch, one(a)?, one(b)?)),
            Verb::Path(from, to) => Walk::Path(Path::new(&view, &mut scratch, one(from)?, one(to)?)),
            Verb::Diff(a, b) => Walk::Diff(Box::new(Diff::new(&view, &mut scratch, one(a)?, one(b)?, PAGE_MAX))),
            Verb::Tips => {
                let namespace = query.filter.namespace.as_deref();
                match Tips::new(skeleton, namespace, Number(skipped)) {
                    Some(tips) => Walk::Tips(tips),
                    None => Walk::List(Vec::new().into_iter()),
                }
            }
        };
        let length = if let Walk::Tips(tips) = &walk { tips.view_len() } else { view.len() };
        Ok(Self { length, scratch, gate, walk, boot, question, skipped })
    }

    /// Goes on for about `edges_budget` edges and appends the vertices it finds to `out`.
    pub fn step(&mut self, skeleton: &Skeleton, edges_budget: usize, out: &mut Vec<Number>) -> Step {
        // The skeleton only grows, so a snapshot that was taken can be taken again.
        let Some(view) = skeleton.view_at(self.length) else { return Step::Done };
        let (scratch, gate) = (&mut self.scratch, &mut self.gate);
        match &mut self.walk {
            Walk::List(numbers) => {
                for number in numbers.by_ref() {
                    if !gate.offer(&view, number, out) {
                        break;
                    }
                }
                Step::Done
            }
            Walk::Closure(closure) => closure.step(&view, scratch, gate, edges_budget, out),
            Walk::Range(range) => range.step(&view, scratch, gate, edges_budget, out),
            Walk::Topo(topo) => topo.step(&view, scratch, gate, edges_budget, out),
            Walk::BestCommon(common) => common.step(&view, scratch, edges_budget, out),
            Walk::IsAncestor(walk) => walk.step(&view, scratch, edges_budget),
            Walk::Path(path) => path.step(&view, scratch, edges_budget),
            Walk::Diff(diff) => diff.step(&view, scratch, edges_budget),
            Walk::Tips(tips) => tips.step(&view, gate, edges_budget, out),
        }
    }

    /// The answer, once a step said that it is done; `numbers` is what the steps found.
    pub fn answer(self, numbers: Vec<Number>) -> Answer {
        self.finish(numbers).0
    }

    /// The answer, and the working memory for the next machine.
    pub fn finish(self, numbers: Vec<Number>) -> (Answer, Scratch) {
        let cursor = self.cursor();
        let answer = match self.walk {
            Walk::IsAncestor(walk) => Answer::Bool(walk.finish().unwrap_or(false)),
            Walk::Path(path) => Answer::Path(path.finish(&self.scratch)),
            Walk::Diff(diff) => {
                let found = diff.finish();
                Answer::Diff { only_a: found.only_a, only_b: found.only_b, bases: found.bases }
            }
            _ => Answer::Vertices { numbers, cursor },
        };
        (answer, self.scratch)
    }

    fn cursor(&self) -> Option<Cursor> {
        if !self.gate.more() {
            return None;
        }
        let skip = match &self.walk {
            Walk::Tips(tips) => tips.last()?.0 + 1,
            _ => self.skipped + self.gate.passed() as u32,
        };
        Some(Cursor { boot: self.boot, question: self.question, length: self.length, skip })
    }
}

fn number(view: &View<'_>, id: &VertexId) -> Result<Number, Refusal> {
    view.number(id).ok_or_else(|| {
        Refusal::new(Reason::NotFound, format!("{id} is not in the graph: it is not here, or waits for its parents"))
    })
}

fn sieve(view: &View<'_>, filter: &Filter) -> Result<Sieve, Refusal> {
    let classes = if filter.namespace.is_none() && filter.kind.is_none() {
        None
    } else {
        let classes = view.classes_of(filter.namespace.as_deref(), filter.kind.as_deref());
        let too_many = || Refusal::new(Reason::LimitExceeded, "too many namespaces and kinds to filter by them");
        Some(classes.ok_or_else(too_many)?)
    };
    Ok(Sieve {
        classes,
        label_hashes: filter.labels.iter().map(|(key, value)| label_hash(key, value)).collect(),
        since_ms: filter.since_ms,
        until_ms: filter.until_ms,
        generation_min: filter.since_generation,
        generation_max: filter.until_generation,
    })
}
