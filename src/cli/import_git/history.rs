//! A git repository's commits, parents first, and its refs.
//!
//! Promises: every commit that a ref reaches is given once, after all its parents; what a shallow clone left out is named as
//! such, what is missing otherwise is an error. Does not: run git, look at configuration outside the repository, or write.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::ByteSlice;

use super::commit::{Commit, CommitError};

/// Commit objects kept from the walk to the second reading, in bytes; beyond that they are read again.
const KEPT_BYTES_MAX: usize = 256 << 20;

/// Why a repository cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum HistoryError {
    /// Not a repository.
    #[error("{path}: {detail}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A commit that is not there.
    #[error("commit {hash} is missing: the repository is not whole (a partial clone?); fetch it and try again")]
    Missing {
        /// Its hash.
        hash: String,
    },
    /// An object that cannot be read.
    #[error("object {hash}: {detail}")]
    Object {
        /// Its hash.
        hash: String,
        /// What is wrong.
        detail: String,
    },
    /// A commit that is none.
    #[error("commit {hash}: {error}")]
    Commit {
        /// Its hash.
        hash: String,
        /// What is wrong.
        error: CommitError,
    },
    /// The refs cannot be listed.
    #[error("the repository's refs cannot be read: {detail}")]
    Refs {
        /// What is wrong.
        detail: String,
    },
}

/// A ref and the commit it points to, tags peeled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    /// As git names it: `HEAD`, `refs/heads/main`.
    pub name: String,
    /// The commit.
    pub commit: ObjectId,
}

/// An open repository.
pub(super) struct Repository {
    inner: gix::Repository,
    /// Commits whose parents a shallow clone left out.
    shallow: HashSet<ObjectId>,
}

/// The commits that the tips reach.
pub(super) struct History {
    commits: Vec<Node>,
    /// Numbers of commits, parents first.
    order: Vec<u32>,
}

struct Node {
    id: ObjectId,
    parents: Vec<u32>,
    shallow: bool,
    /// The object, while there is room.
    object: Option<Box<[u8]>>,
}

/// One commit of a history, in its turn.
pub(super) struct Entry<'a> {
    /// Its number in the history.
    pub number: u32,
    /// Its hash.
    pub id: ObjectId,
    /// The numbers of its parents, which came before.
    pub parents: &'a [u32],
    /// Whether parents were left out by a shallow clone.
    pub shallow: bool,
}

impl Repository {
    /// Opens the repository at `path`: a work tree, any folder in one, a bare repository or a `.git`.
    ///
    /// # Errors
    /// [`HistoryError::Open`].
    pub(super) fn open(path: &Path) -> Result<Self, HistoryError> {
        let failed = |detail: String| HistoryError::Open { path: path.to_owned(), detail };
        // Only data is read and no program is ever started, so whose files they are does not matter.
        let options = || gix::open::Options::isolated().with(gix::sec::Trust::Full);
        let inner = gix::open_opts(path, options()).or_else(|error| {
            let found = gix::discover(path).map_err(|_| error)?;
            gix::open_opts(found.git_dir(), options())
        });
        let inner = inner.map_err(|error| failed(error.to_string()))?;
        let shallow = inner.shallow_commits().map_err(|error| failed(error.to_string()))?;
        let shallow = shallow.map(|commits| commits.iter().copied().collect()).unwrap_or_default();
        Ok(Self { inner, shallow })
    }

    /// The name that a person would call it by: its folder's, without `.git`.
    pub(super) fn name(&self) -> String {
        let folder = self.inner.workdir().unwrap_or(self.inner.git_dir());
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.strip_suffix(".git").unwrap_or(&name).to_owned()
    }

    /// Digits of a hash in this repository: 40 or 64.
    pub(super) fn hash_digits(&self) -> usize {
        self.inner.object_hash().len_in_hex()
    }

    /// Every ref that leads to a commit, `HEAD` first, and how many lead elsewhere or nowhere.
    ///
    /// # Errors
    /// [`HistoryError::Refs`].
    pub(super) fn tips(&self) -> Result<(Vec<Tip>, usize), HistoryError> {
        let failed = |error: gix::Error| HistoryError::Refs { detail: error.to_string() };
        let mut tips = Vec::new();
        let mut elsewhere = 0;
        // A fresh repository has a HEAD that points to nothing yet.
        if let Ok(head) = self.inner.head_id() {
            tips.push(Tip { name: "HEAD".to_owned(), commit: head.detach() });
        }
        let platform = self.inner.references().map_err(failed)?;
        for reference in platform.all().map_err(failed)? {
            let Ok(mut reference) = reference else {
                elsewhere += 1;
                continue;
            };
            let name = reference.name().as_bstr().to_str_lossy().into_owned();
            let commit =
                reference.peel_to_id().ok().map(|id| id.detach()).filter(|&id| {
                    self.inner.find_header(id).is_ok_and(|header| header.kind() == gix::objs::Kind::Commit)
                });
            match commit {
                Some(commit) => tips.push(Tip { name, commit }),
                None => elsewhere += 1,
            }
        }
        Ok((tips, elsewhere))
    }

    /// Walks everything that `tips` reach; `seen` is told the number of commits found so far.
    ///
    /// # Errors
    /// [`HistoryError::Missing`], [`HistoryError::Object`], [`HistoryError::Commit`].
    pub(super) fn history(&self, tips: &[ObjectId], mut seen: impl FnMut(u64)) -> Result<History, HistoryError> {
        let mut commits: Vec<Node> = Vec::new();
        let mut numbers: HashMap<ObjectId, u32> = HashMap::new();
        let mut order = Vec::new();
        let mut kept_bytes = 0;
        // Parents still to be entered, by commit: reading them at once would need a place for each of them.
        let mut path: Vec<(u32, Vec<ObjectId>)> = Vec::new();
        for &tip in tips {
            let mut entering = Some((tip, None));
            loop {
                if let Some((id, child)) = entering.take() {
                    let known = numbers.get(&id).copied();
                    let number = match known {
                        Some(number) => number,
                        None => {
                            let number = commits.len() as u32;
                            let object = self.read(id)?;
                            let parents = self.parents(id, &object)?;
                            let shallow = self.shallow.contains(&id);
                            let keep = kept_bytes + object.len() <= KEPT_BYTES_MAX;
                            kept_bytes += if keep { object.len() } else { 0 };
                            let object = keep.then(|| object.into_boxed_slice());
                            commits.push(Node { id, parents: Vec::with_capacity(parents.len()), shallow, object });
                            numbers.insert(id, number);
                            path.push((number, parents));
                            seen(commits.len() as u64);
                            number
                        }
                    };
                    if let Some(child) = child {
                        let child: u32 = child;
                        commits[child as usize].parents.push(number);
                    }
                }
                let Some((number, parents)) = path.last_mut() else { break };
                // Hashes cannot form a cycle, so a parent that is known is finished or is entered from here.
                let number = *number;
                if let Some(parent) = parents.pop() {
                    entering = Some((parent, Some(number)));
                } else {
                    order.push(number);
                    path.pop();
                }
            }
        }
        Ok(History { commits, order })
    }

    /// The bytes of a commit, from `history` where they were kept.
    ///
    /// # Errors
    /// [`HistoryError::Missing`], [`HistoryError::Object`].
    pub(super) fn object(&self, history: &mut History, number: u32) -> Result<Box<[u8]>, HistoryError> {
        let node = &mut history.commits[number as usize];
        match node.object.take() {
            Some(object) => Ok(object),
            None => Ok(self.read(node.id)?.into_boxed_slice()),
        }
    }

    fn read(&self, id: ObjectId) -> Result<Vec<u8>, HistoryError> {
        let failed = |detail: String| HistoryError::Object { hash: id.to_string(), detail };
        let object = self.inner.try_find_object(id).map_err(|error| failed(error.to_string()))?;
        let object = object.ok_or_else(|| HistoryError::Missing { hash: id.to_string() })?;
        if object.kind != gix::objs::Kind::Commit {
            return Err(failed(format!("it is a {}, not a commit", object.kind)));
        }
        Ok(object.detach().data)
    }

    /// The parents that the repository has, the last first.
    fn parents(&self, id: ObjectId, object: &[u8]) -> Result<Vec<ObjectId>, HistoryError> {
        let malformed = |error| HistoryError::Commit { hash: id.to_string(), error };
        let commit = Commit::parse(object, self.hash_digits()).map_err(malformed)?;
        if self.shallow.contains(&id) {
            return Ok(Vec::new());
        }
        let parents = commit.parents.iter().rev().map(|parent| {
            ObjectId::from_hex(parent.as_bytes())
                .map_err(|error| HistoryError::Object { hash: (*parent).to_owned(), detail: error.to_string() })
        });
        parents.collect()
    }
}

impl History {
    /// Commits in the history.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The commit whose turn is `turn`: parents come before their children.
    pub(super) fn entry(&self, turn: usize) -> Entry<'_> {
        let number = self.order[turn];
        let node = &self.commits[number as usize];
        Entry { number, id: node.id, parents: &node.parents, shallow: node.shallow }
    }
}
