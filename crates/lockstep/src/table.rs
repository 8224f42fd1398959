//! Tables in plain text that fit a width: columns that matter less go when there is no room.

/// A table, of which every row has as many cells as there are columns.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// The heads of the columns, each with its rank: those of the highest rank go first.
    columns: Vec<(&'static str, u8)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table without rows. Columns of rank 0 stay, whatever the width.
    pub(crate) fn new(columns: &[(&'static str, u8)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Returns the lines of the table, its head first, in at most `width` characters if the columns
    /// that stay allow it.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widest = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| count(cell));
            cells.chain([count(self.columns[at].0)]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(widest).collect();
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let needed = |shown: &[usize]| {
            INDENT + shown.iter().map(|at| widths[*at] + GAP).sum::<usize>().saturating_sub(GAP)
        };
        while width.is_some_and(|width| needed(&shown) > width) {
            let last = shown.iter().enumerate().max_by_key(|(_, at)| (self.columns[**at].1, **at));
            match last {
                Some((place, at)) if self.columns[*at].1 > 0 => drop(shown.remove(place)),
                Some(_) | None => break,
            }
        }
        let heads: Vec<String> = self.columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        let line = |row: &Vec<String>| {
            let cell = |at: &usize| {
                let text = row.get(*at).map_or("", String::as_str);
                format!("{text}{}", " ".repeat(widths[*at].saturating_sub(count(text))))
            };
            let cells: Vec<String> = shown.iter().map(cell).collect();
            format!("{}{}", " ".repeat(INDENT), cells.join(&" ".repeat(GAP))).trim_end().to_owned()
        };
        std::iter::once(&heads).chain(&self.rows).map(line).collect()
    }
}

/// The spaces before each line.
const INDENT: usize = 2;
/// The spaces between columns.
const GAP: usize = 2;

fn count(text: &str) -> usize {
    text.chars().count()
}

/// Returns words in lines of at most `width` characters after `head`, which only the first line
/// has; a word that is longer has a line of its own.
pub(crate) fn wrapped(head: &str, words: &[String], width: Option<usize>) -> Vec<String> {
    let indent = " ".repeat(count(head));
    let mut lines = vec![head.to_owned()];
    for word in words {
        let Some(line) = lines.last_mut() else { break };
        let is_first = count(line) == count(head);
        let fits = width.is_none_or(|width| count(line) + GAP + count(word) <= width);
        match (is_first, fits) {
            (true, _) => line.push_str(word),
            (false, true) => *line += &format!("{}{word}", " ".repeat(GAP)),
            (false, false) => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_their_rank_until_the_table_fits_and_those_of_rank_0_stay() {
        let mut table = Table::new(&[("node", 0), ("trip", 2), ("layers", 0), ("queue", 1)]);
        table.row(["abcdef", "1 ms", "0..10", "3"].map(str::to_owned));
        let lines = |width| table.lines(width);
        assert_eq!(lines(None), ["  node    trip  layers  queue", "  abcdef  1 ms  0..10   3"]);
        assert_eq!(lines(Some(29)), lines(None));
        assert_eq!(lines(Some(28)), ["  node    layers  queue", "  abcdef  0..10   3"]);
        assert_eq!(lines(Some(5)), ["  node    layers", "  abcdef  0..10"]);
    }

    #[test]
    fn words_are_wrapped_between_them() {
        let words = ["one", "two", "three"].map(str::to_owned);
        assert_eq!(wrapped("is: ", &words, None), ["is: one  two  three"]);
        assert_eq!(wrapped("is: ", &words, Some(12)), ["is: one  two", "    three"]);
        assert_eq!(wrapped("is: ", &words, Some(1)), ["is: one", "    two", "    three"]);
        assert_eq!(wrapped("is: ", &[], None), ["is: "]);
    }
}
