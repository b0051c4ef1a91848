//! Finding tools by words, so that a model need not be told of all of them.
//!
//! Pure. Promises: the same words give the same order; a tool whose name has a word stands before one that only describes it.

use super::federation::Row;

/// Tools of one answer.
pub(in crate::gateway) const FOUND_MAX: usize = 50;

/// The tools that fit `query` best, at most `limit`; all of them, by name, when it has no words.
pub(in crate::gateway) fn search<'a>(rows: impl Iterator<Item = &'a Row>, query: &str, limit: usize) -> Vec<&'a Row> {
    let query = query.to_lowercase();
    let words: Vec<&str> =
        query.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut found: Vec<(usize, &Row)> =
        rows.map(|row| (score(row, &words), row)).filter(|(score, _)| words.is_empty() || 0 < *score).collect();
    found.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.key.cmp(&b.key)));
    found.into_iter().take(limit.min(FOUND_MAX)).map(|(_, row)| row).collect()
}

fn score(row: &Row, words: &[&str]) -> usize {
    const NAME: usize = 8;
    const TEXT: usize = 1;
    let (name, text) = (row.key.to_lowercase(), row.json.to_lowercase());
    let of = |word: &&str| NAME * usize::from(name.contains(word)) + TEXT * usize::from(text.contains(word));
    words.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_1_1_tools_are_found_by_name_before_description() {
        let row = |key: &str, about: &str| Row { key: key.to_owned(), json: format!("{{\"description\":{about:?}}}") };
        let rows = [row("files__read", "Reads"), row("mail__send", "Sends files"), row("x", "nothing")];
        let found = |query: &str| search(rows.iter(), query, 9).iter().map(|row| row.key.clone()).collect::<Vec<_>>();
        assert_eq!(found("Files"), ["files__read", "mail__send"]);
        assert_eq!(found("send, files!"), ["mail__send", "files__read"]);
        assert_eq!(found("absent"), Vec::<String>::new());
        assert_eq!(found(" "), ["files__read", "mail__send", "x"]);
    }
}
