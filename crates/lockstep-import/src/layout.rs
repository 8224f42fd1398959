//! Rules that a file of tensors must keep, whatever its format.

/// Returns a name that stands twice among `names`; `None` if each stands once.
pub(crate) fn twice<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    let same = names.windows(2).find(|pair| pair.first() == pair.last())?;
    same.first().copied()
}

/// Returns two tensors that share bytes, the one that starts first first; of each are given where
/// it starts, where it ends and its name.
pub(crate) fn overlap<'a>(
    ranges: impl Iterator<Item = (u64, u64, &'a str)>,
) -> Option<(&'a str, &'a str)> {
    let mut ranges: Vec<(u64, u64, &str)> = ranges.collect();
    ranges.sort_unstable();
    ranges.windows(2).find_map(|pair| match pair {
        [(_, end, first), (next, _, second)] if end > next => Some((*first, *second)),
        _ => None,
    })
}
