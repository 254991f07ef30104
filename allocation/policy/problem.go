// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Problem is one mistake in a policy.
type Problem struct {
	// Line and Column tell where it stands, both from 1; the column counts
	// characters. Both are 0 when the file as a whole is meant.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`

	// Message says what is wrong and, where that can be known, what to write.
	Message string `json:"message"`

	excerpt string // the line, and a mark below the place
}

// Excerpt shows the line of the mistake with a mark below it, or nothing when
// the file as a whole is meant.
func (p Problem) Excerpt() string { return p.excerpt }

// LoadError is everything that is wrong with a policy.
type LoadError struct {
	// Name is the file.
	Name string `json:"name"`

	// Problems are in the order of the file.
	Problems []Problem `json:"problems"`
}

// Error gives a line for each problem: file, line, column and message.
func (e *LoadError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		lines[i] = e.line(problem)
	}
	return strings.Join(lines, "\n")
}

// Report is [LoadError.Error] with an excerpt below each line, for a person at a
// terminal.
func (e *LoadError) Report() string {
	var out strings.Builder
	for _, problem := range e.Problems {
		out.WriteString(e.line(problem) + "\n" + problem.excerpt)
	}
	return out.String()
}

func (e *LoadError) line(p Problem) string {
	if p.Line == 0 {
		return e.Name + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.Name, p.Line, p.Column, p.Message)
}

// maxExcerpt bounds the line that an excerpt shows, in characters.
const maxExcerpt = 160

// problemAt describes a mistake at a place of the file.
func problemAt(source []byte, at span, message string) *Problem {
	line, column := position(source, at.start)
	shown := lineAt(source, line)
	marks := max(1, utf8.RuneCount(source[at.start:min(at.end, len(source))]))
	number := fmt.Sprintf("%4d", line)
	if utf8.RuneCountInString(shown) <= maxExcerpt {
		marks = max(1, min(marks, utf8.RuneCountInString(shown)-column+1))
	} else {
		shown, marks = string([]rune(shown)[:maxExcerpt])+" …", 1
	}
	excerpt := ""
	if column <= maxExcerpt {
		excerpt = fmt.Sprintf("%s | %s\n     | %s%s\n", number, strings.ReplaceAll(shown, "\t", " "), strings.Repeat(" ", column-1), strings.Repeat("^", marks))
	}
	return &Problem{Line: line, Column: column, Message: message, excerpt: excerpt}
}

// didYouMean ends a message about an unknown word with the nearest known one.
func didYouMean(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("; did you mean %q?", near)
	}
	return ""
}

// orKnown is didYouMean, or all words where none is near.
func orKnown(word string, known []string) string {
	if hint := didYouMean(word, known); hint != "" {
		return hint
	}
	if len(known) == 0 {
		return ""
	}
	return "; known are " + listWords(known, "and")
}

// nearest picks the known word within a third of its length in edits, so that a
// slip of the finger is recognised and another word is not; or else one that the
// word begins with.
func nearest(word string, known []string) string {
	best, distance := "", 1<<30
	if len(word) > 64 {
		return "" // nobody's slip
	}
	for _, candidate := range known {
		d := edits(strings.ToLower(word), strings.ToLower(candidate))
		if d < distance && d <= allowed(candidate) {
			best, distance = candidate, d
		}
	}
	if best == "" {
		for _, candidate := range known {
			if len(candidate) >= 4 && strings.HasPrefix(strings.ToLower(word), candidate) {
				return candidate
			}
		}
	}
	return best
}

// allowed is how many edits away a word is still taken for the candidate.
func allowed(candidate string) int {
	if len(candidate) < 4 {
		return 1
	}
	return max(2, len(candidate)/3)
}

// edits counts the letters to insert, drop, replace, or swap with their
// neighbour to make b of a.
func edits(a, b string) int {
	var before, previous []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, previous, row = previous, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(previous[j]+cost, previous[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// oneOf lists words for a message: "a", "b" or "c".
func oneOf(words []string) string { return listWords(words, "or") }

// listWords puts conj before the last of the words.
func listWords(words []string, conj string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = fmt.Sprintf("%q", word)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " " + conj + " " + quoted[len(quoted)-1]
}
