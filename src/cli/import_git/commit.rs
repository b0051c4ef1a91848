//! A commit object of git, and the vertex it becomes.
//!
//! ```text
//! namespace  --namespace, "git"          kind     "commit"
//! author     Name <email>                time     the committer's, in milliseconds, 0 where it is before 1970
//! parents    the vertices of the commit's parents, in order; a parent that git names twice stands once
//! payload    the message's bytes         labels   git, git.tree, and where they say something: git.author-time,
//!                                                 git.encoding, git.shallow, git.cut
//! ```
//!
//! Promises: one commit of one history always becomes the same vertex; any bytes are read without a panic.
//! Does not: read a repository. What does not fit the limits of a vertex is cut, and the label `git.cut` says so.

use std::collections::BTreeMap;

use crate::dag::vertex::Vertex;
use crate::ids::VertexId;
use crate::limits::{AUTHOR_BYTES_MAX, LABEL_VALUE_BYTES_MAX, PARENTS_MAX, PAYLOAD_BYTES_MAX};

/// Kind of a vertex that was a commit.
pub(super) const KIND_COMMIT: &str = "commit";
/// Label with the commit's own hash, in hexadecimal.
pub(super) const LABEL_GIT: &str = "git";
const LABEL_TREE: &str = "git.tree";
const LABEL_AUTHOR_TIME: &str = "git.author-time";
const LABEL_ENCODING: &str = "git.encoding";
const LABEL_SHALLOW: &str = "git.shallow";
const LABEL_CUT: &str = "git.cut";

/// The parts of a commit object, in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit<'a> {
    /// Hash of the tree, in hexadecimal.
    pub tree: &'a str,
    /// Hashes of the parents, in hexadecimal.
    pub parents: Vec<&'a str>,
    /// `Name <email> seconds zone`, raw.
    pub author: &'a [u8],
    /// `Name <email> seconds zone`, raw.
    pub committer: &'a [u8],
    /// Of message and names, when it is not UTF-8.
    pub encoding: Option<&'a str>,
    /// Everything behind the empty line.
    pub message: &'a [u8],
}

/// An object that is no commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the commit object is malformed: {0}")]
pub(super) struct CommitError(&'static str);

impl<'a> Commit<'a> {
    /// Reads a commit object; `hash_digits` is the length of a hash in the repository.
    ///
    /// # Errors
    /// [`CommitError`]. Names and times may be anything: old histories hold strange ones.
    pub(super) fn parse(object: &'a [u8], hash_digits: usize) -> Result<Self, CommitError> {
        let hash = |value: &'a [u8], what| {
            let text = std::str::from_utf8(value).map_err(|_| CommitError(what))?;
            let is_hash = text.len() == hash_digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_hash { Ok(text) } else { Err(CommitError(what)) }
        };
        let (mut tree, mut parents, mut encoding) = (None, Vec::new(), None);
        let (mut author, mut committer): (&[u8], &[u8]) = (b"", b"");
        let mut rest = object;
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            let line = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if line.is_empty() {
                break;
            }
            let space = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            let value = line.get(space + 1..).unwrap_or_default();
            match &line[..space] {
                b"tree" if tree.is_none() => tree = Some(hash(value, "its tree is no hash")?),
                b"parent" => parents.push(hash(value, "a parent is no hash")?),
                b"author" if author.is_empty() => author = value,
                b"committer" if committer.is_empty() => committer = value,
                b"encoding" => encoding = std::str::from_utf8(value).ok(),
                // Signatures, mergetags and their continued lines, which begin with a space.
                _ => {}
            }
        }
        let tree = tree.ok_or(CommitError("it has no tree"))?;
        Ok(Self { tree, parents, author, committer, encoding, message: rest })
    }

    /// The vertex of this commit, whose own hash is `hash`. `parents` are the vertices of its parents; `shallow` says that
    /// the repository does not have them.
    pub(super) fn vertex(&self, hash: &str, parents: &[VertexId], shallow: bool, namespace: &str) -> Vertex {
        let mut cut = Vec::new();
        let mut labels =
            BTreeMap::from([(LABEL_GIT.to_owned(), hash.to_owned()), (LABEL_TREE.to_owned(), self.tree.to_owned())]);
        let (name, author_time) = person(self.author);
        let (_, commit_time) = person(self.committer);
        if author_time != commit_time {
            let text = String::from_utf8_lossy(author_time);
            labels.insert(LABEL_AUTHOR_TIME.to_owned(), shortened(&text, LABEL_VALUE_BYTES_MAX).to_owned());
        }
        if let Some(encoding) = self.encoding {
            labels.insert(LABEL_ENCODING.to_owned(), shortened(encoding, LABEL_VALUE_BYTES_MAX).to_owned());
        }
        if shallow {
            labels.insert(LABEL_SHALLOW.to_owned(), "true".to_owned());
        }
        let author = text(name, self.encoding);
        if AUTHOR_BYTES_MAX < author.len() {
            cut.push("author");
        }
        let author = shortened(&author, AUTHOR_BYTES_MAX).to_owned();
        if PAYLOAD_BYTES_MAX < self.message.len() {
            cut.push("message");
        }
        let mut once: Vec<VertexId> = Vec::with_capacity(parents.len());
        for parent in parents {
            if !once.contains(parent) {
                once.push(*parent);
            }
        }
        if PARENTS_MAX < once.len() {
            cut.push("parents");
            once.truncate(PARENTS_MAX);
        }
        if !cut.is_empty() {
            labels.insert(LABEL_CUT.to_owned(), cut.join(","));
        }
        Vertex {
            namespace: namespace.to_owned(),
            kind: KIND_COMMIT.to_owned(),
            author: (!author.is_empty()).then_some(author),
            timestamp_ms: milliseconds(commit_time),
            parents: once,
            labels,
            payload: self.message[..self.message.len().min(PAYLOAD_BYTES_MAX)].to_vec(),
        }
    }
}

/// Splits `Name <email> seconds zone` behind the last `>`.
fn person(raw: &[u8]) -> (&[u8], &[u8]) {
    let end = raw.iter().rposition(|&byte| byte == b'>').map_or(0, |at| at + 1);
    (raw[..end].trim_ascii(), raw[end..].trim_ascii())
}

/// `seconds zone` in milliseconds since 1970; what is earlier or no number is 0.
fn milliseconds(time: &[u8]) -> u64 {
    let seconds = time.split(|&byte| byte == b' ').next().unwrap_or_default();
    let seconds = std::str::from_utf8(seconds).ok().and_then(|text| text.parse::<i64>().ok());
    u64::try_from(seconds.unwrap_or(0)).unwrap_or(0).saturating_mul(1000)
}

/// Bytes as text: Latin-1 where the commit says so, else UTF-8 with U+FFFD for what is not.
fn text(raw: &[u8], encoding: Option<&str>) -> String {
    let latin = encoding.is_some_and(|name| {
        ["iso-8859-1", "iso8859-1", "latin1", "latin-1"].iter().any(|known| name.eq_ignore_ascii_case(known))
    });
    if latin { raw.iter().map(|&byte| char::from(byte)).collect() } else { String::from_utf8_lossy(raw).into_owned() }
}

/// The longest front of `text` within `bytes_max` that ends between two characters.
fn shortened(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed set-up should end the test")]
mod tests {
    use super::*;
    use crate::ids::ID_BYTES;

    const HASH: &str = "0123456789012345678901234567890123456789";
    const OBJECT: &[u8] = b"tree 1111111111111111111111111111111111111111\n\
parent 2222222222222222222222222222222222222222\n\
parent 3333333333333333333333333333333333333333\n\
author A U Thor <author@example.com> 1112911993 -0700\n\
committer C O Mitter <committer@example.com> 1112911994 -0700\n\
gpgsig -----BEGIN PGP SIGNATURE-----\n \n tree of the signature\n -----END PGP SIGNATURE-----\n\
\nsubject\n\nbody tree parent\n";

    #[test]
    fn s0_2_a_commit_becomes_a_vertex() {
        let commit = Commit::parse(OBJECT, 40).unwrap();
        assert_eq!(commit.parents, ["2".repeat(40), "3".repeat(40)]);
        assert_eq!(commit.message, b"subject\n\nbody tree parent\n");
        let parents = [VertexId([1; ID_BYTES]), VertexId([2; ID_BYTES])];
        let vertex = commit.vertex(HASH, &parents, false, "git");
        assert_eq!(vertex.author.as_deref(), Some("A U Thor <author@example.com>"));
        assert_eq!(vertex.timestamp_ms, 1_112_911_994_000);
        assert_eq!(vertex.parents, parents);
        assert_eq!(vertex.labels["git"], HASH);
        assert_eq!(vertex.labels["git.tree"], "1".repeat(40));
        assert_eq!(vertex.labels["git.author-time"], "1112911993 -0700");
        assert_eq!(vertex.labels.len(), 3);
        vertex.check().unwrap();
        assert_eq!(vertex.id(), commit.vertex(HASH, &parents, false, "git").id());
        assert_ne!(vertex.id(), commit.vertex(HASH, &[], true, "git").id());
    }

    #[test]
    fn s0_2_strange_commits_still_become_vertices() {
        let check = |object: Vec<u8>, parents: &[VertexId], wanted: &dyn Fn(&Vertex)| {
            let vertex = Commit::parse(&object, 40).unwrap().vertex(HASH, parents, false, "git");
            vertex.check().unwrap();
            wanted(&vertex);
        };
        let tree = format!("tree {}\n", "1".repeat(40)).into_bytes();
        let with = |tail: &[u8]| [tree.as_slice(), tail].concat();
        check(with(b""), &[], &|vertex| assert_eq!((vertex.author.as_deref(), vertex.timestamp_ms), (None, 0)));
        check(with(b"author  <> 1 +0000\ncommitter  <> -5 +0000\n\n"), &[], &|vertex| {
            assert_eq!((vertex.author.as_deref(), vertex.timestamp_ms), (Some("<>"), 0));
        });
        check(with(b"committer a <b> 99999999999999999 +0000\n\n\xff\xfe"), &[], &|vertex| {
            assert_eq!((vertex.timestamp_ms, vertex.payload.as_slice()), (u64::MAX, &b"\xff\xfe"[..]));
        });
        check(with(b"author J\xfcrgen <j@x> 1 +0\ncommitter J <j> 1 +0\nencoding ISO-8859-1\n\nm"), &[], &|vertex| {
            assert_eq!(vertex.author.as_deref(), Some("Jürgen <j@x>"));
            assert_eq!(vertex.labels["git.encoding"], "ISO-8859-1");
        });
        let same = VertexId([1; ID_BYTES]);
        check(with(b"\n"), &[same, same], &|vertex| assert_eq!(vertex.parents, [same]));
        let many: Vec<VertexId> =
            (0..=PARENTS_MAX).map(|at| VertexId([at as u8, (at >> 8) as u8].repeat(16).try_into().unwrap())).collect();
        check(with(b"\n"), &many, &|vertex| {
            assert_eq!((vertex.parents.len(), vertex.labels["git.cut"].as_str()), (PARENTS_MAX, "parents"));
        });
        let long =
            [b"author ", "é".repeat(200).as_bytes(), b" <> 1 +0\n\n", &vec![b'x'; PAYLOAD_BYTES_MAX + 1]].concat();
        check(with(&long), &[], &|vertex| assert_eq!(vertex.labels["git.cut"], "author,message"));
    }

    #[test]
    fn s0_2_what_is_no_commit_is_refused() {
        for object in [&b""[..], b"tree", b"tree 12\n", b"parent 1\n", b"author a\n\n"] {
            assert!(Commit::parse(object, 40).is_err(), "{object:?}");
        }
        assert!(Commit::parse(OBJECT, 64).is_err());
        for cut in 0..OBJECT.len() {
            drop(Commit::parse(&OBJECT[..cut], 40));
        }
    }
}
