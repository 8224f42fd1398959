//! `README.md`: the model card, of which only the licence is read.

/// Returns the licence that a model card names in its front matter, the lines between two of `---`
/// at its beginning.
///
/// # Examples
/// ```
/// # use lockstep_import::safetensors::card_license;
/// assert_eq!(card_license(b"---\nlicense: apache-2.0\n---\n# A model\n"), Some("apache-2.0"));
/// assert_eq!(card_license(b"# A model\nlicense: mine\n"), None);
/// ```
pub fn card_license(card: &[u8]) -> Option<&str> {
    let mut lines = std::str::from_utf8(card).ok()?.lines();
    lines.next().filter(|line| *line == "---")?;
    let matter = lines.take_while(|line| *line != "---");
    let license = matter.filter_map(|line| line.strip_prefix("license:")).next()?;
    let license = license.trim().trim_matches(['"', '\'']);
    Some(license).filter(|license| !license.is_empty())
}
