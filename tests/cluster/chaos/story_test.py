#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The judge of the chaos tests: what it calls a violation, and what not."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from story import Word, judge  # noqa: E402


def words(*said, life="a", begin=1.0):
    """[(pod, number), ...] said one after another, 20 ms apart."""
    return [Word(begin + i * 0.02, life, pod, number) for i, (pod, number) in enumerate(said)]


class JudgeTest(unittest.TestCase):
    BEFORE = Word(0.98, "a", "source", 10)

    def violations(self, said, lost=False):
        return judge(self.BEFORE, said, lost).violations

    def test_a_move_is_fine(self):
        verdict = judge(self.BEFORE, words(("source", 11), ("source", 12), ("target", 13), ("target", 14)), False)
        self.assertEqual((verdict.violations, verdict.restarted), ([], False))

    def test_a_pod_that_stays_is_fine(self):
        self.assertEqual(self.violations(words(("source", 11), ("source", 12))), [])

    def test_a_lost_number_is_fine(self):
        self.assertEqual(self.violations(words(("source", 11), ("target", 15))), [])

    def test_two_copies_that_count_on_are_found(self):
        self.assertIn("I1", self.violations(words(("source", 11), ("target", 12), ("source", 12), ("target", 13)))[0])

    def test_a_source_that_goes_on_after_its_copy_ran_is_found(self):
        self.assertIn("I1: source goes on at 30", self.violations(words(("source", 11), ("target", 12), ("source", 30)))[0])

    def test_a_number_said_twice_is_found(self):
        self.assertIn("I1", self.violations(words(("source", 11), ("source", 11)))[0])

    def test_a_new_life_is_a_loss_where_the_fault_destroys_nothing(self):
        said = words(("source", 11)) + words(("source", 1), life="b", begin=2.0)
        self.assertIn("I2", self.violations(said)[0])
        verdict = judge(self.BEFORE, said, True)
        self.assertEqual((verdict.violations, verdict.restarted), ([], True))

    def test_an_old_life_beside_a_new_one_is_found(self):
        said = words(("source", 11)) + words(("target", 1), life="b", begin=2.0) + words(("source", 12), begin=2.1)
        self.assertIn("I1", self.violations(said, lost=True)[0])

    def test_a_changed_page_is_found_once(self):
        said = [Word(1.0, "a", "target", 11, 1), Word(1.02, "a", "target", 12, 1)]
        self.assertEqual(len(self.violations(said)), 1)
        self.assertIn("I4", self.violations(said)[0])

    def test_the_longest_silence_is_measured_from_the_last_word_before(self):
        verdict = judge(self.BEFORE, [Word(3.98, "a", "target", 11), Word(4.0, "a", "target", 12)], False)
        self.assertAlmostEqual(verdict.silence, 3.0)


if __name__ == "__main__":
    unittest.main()
