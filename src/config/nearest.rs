//! The known word that a mistyped one was probably meant to be.
//!
//! Promises: `None` when no known word is close enough to be worth suggesting.
//! Does not: know what the words mean.

/// The known word with the smallest edit distance to `typed`, if at most a third of the letters differ.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, word) = known.into_iter().map(|word| (distance(typed, word), word)).min()?;
    (distance * 3 <= typed.chars().count().max(word.chars().count())).then_some(word)
}

/// Letters to insert, delete or replace to turn one word into the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = line;
        row[0] = line + 1;
        for (column, &other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_4_a_mistyped_word_finds_its_neighbour_and_a_strange_one_does_not() {
        let known = ["storage.segment_mib", "storage.scrub_mib_s", "cpu.cores"];
        for (typed, expected) in [
            ("storage.segment_mb", Some("storage.segment_mib")),
            ("storage.segments_mib", Some("storage.segment_mib")),
            ("cpu.core", Some("cpu.cores")),
            ("cpu.cores", Some("cpu.cores")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expected, "{typed:?}");
        }
        assert_eq!(nearest("anything", []), None);
    }

    #[test]
    fn s8_4_distance_counts_single_letters() {
        for (from, to, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ä", "a", 1)]
        {
            assert_eq!(distance(from, to), expected, "{from:?} {to:?}");
        }
    }
}
