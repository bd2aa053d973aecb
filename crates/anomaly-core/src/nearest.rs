//! The name that somebody probably meant.

/// The candidate with the smallest edit distance to `name`, if it is near enough to be a likely
/// slip: at most a third of the name's length, at least 2, ignoring case.
pub fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(2);
    candidates
        .iter()
        .map(|&c| (strsim::damerau_levenshtein(&wanted, &c.to_lowercase()), c))
        .filter(|&(distance, _)| distance <= limit)
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)))
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_slip_and_nothing_far_away() {
        let columns = ["host", "cpu", "recorded_at", "Amount"];
        assert_eq!(nearest("recordedat", &columns), Some("recorded_at"));
        assert_eq!(nearest("amonut", &columns), Some("Amount"));
        assert_eq!(nearest("temperature", &columns), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
