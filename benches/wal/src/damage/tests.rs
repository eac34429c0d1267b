use super::*;
use crate::peers;

#[test]
fn ours_is_right_in_every_cell() {
    let place = tempfile::tempdir().unwrap();
    for peer in peers::damaged().iter().filter(|peer| peer.is_ours()) {
        // Enough for three segments. Opened in this process: no other program is at hand.
        let row = row(&**peer, place.path(), 1_200, 3, read::here).unwrap();
        for (damage, verdict) in Damage::ALL.iter().zip(&row.verdicts) {
            // Nothing of ours survives damage by luck, so a damage that is not noticed was not done.
            let right = match verdict {
                Verdict::Whole => damage.is_legal(),
                Verdict::Refused { .. } => !damage.is_legal(),
                _ => false,
            };
            assert!(right, "{}: {}: {verdict:?}", peer.name(), damage.title());
        }
    }
}
