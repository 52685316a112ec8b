//! Boxed tables, as the Python clients print them.

use std::io::{IsTerminal, Write};

#[derive(Clone, Copy, PartialEq)]
pub enum Wrap {
    No,
    /// Long cells are broken so that the table fits the terminal.
    Terminal,
}

/// Least width a column is wrapped to.
const NARROW: usize = 12;

pub fn print(headings: &[&str], rows: &[Vec<String>], wrap: Wrap) {
    print!("{}", render(headings, rows, width(wrap)));
}

/// As [`print`], a screen at a time where somebody looks at one.
pub fn print_paged(headings: &[&str], rows: &[Vec<String>], wrap: Wrap) -> std::io::Result<()> {
    let screen = terminal_size::terminal_size().filter(|_| std::io::stdin().is_terminal());
    let Some((_, terminal_size::Height(height))) = screen else {
        print(headings, rows, wrap);
        return Ok(());
    };
    let width = width(wrap);
    for (n, page) in pages(headings, rows, width, usize::from(height)).into_iter().enumerate() {
        if n > 0 {
            print!("Press Enter to continue or 'q' to exit...");
            std::io::stdout().flush()?;
            let mut answer = String::new();
            if std::io::stdin().read_line(&mut answer)? == 0 || answer.trim() == "q" {
                break;
            }
        }
        print!("{page}");
    }
    Ok(())
}

/// Tables of as many rows as fit a screen of this height, with a line for the question; at least one row each.
fn pages(headings: &[&str], rows: &[Vec<String>], width: usize, height: usize) -> Vec<String> {
    let mut pages = Vec::new();
    let mut rest = rows;
    while !rest.is_empty() {
        let fits = |n: &usize| render(headings, &rest[..*n], width).lines().count() < height;
        let count = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        pages.push(render(headings, &rest[..count], width));
        rest = &rest[count..];
    }
    pages
}

/// How wide a table may be. Without a terminal nobody is there to be spared long lines.
fn width(wrap: Wrap) -> usize {
    if wrap == Wrap::No {
        return usize::MAX;
    }
    let told = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    told.or_else(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))).unwrap_or(usize::MAX)
}

/// Cells of a property table: the value broken at this many characters.
const VALUE: usize = 72;

/// Two columns, sorted by the first.
pub fn print_properties(mut rows: Vec<(&str, String)>) {
    rows.sort();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_string(), broken(&value, VALUE).join("\n")]).collect();
    print!("{}", render(&["Property", "Value"], &rows, usize::MAX));
}

fn render(headings: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let widest = |cell: &String| cell.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let longest = |i: usize| rows.iter().map(|r| widest(&r[i])).chain([headings[i].chars().count()]).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..headings.len()).map(longest).collect();
    // The widest column gives way until the table fits.
    while widths.iter().map(|w| w + 3).sum::<usize>() + 1 > width {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROW => *widest -= 1,
            _ => break,
        }
    }
    let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+\n";
    let mut table = rule.clone() + &lines(&headings.iter().map(|h| h.to_string()).collect::<Vec<_>>(), &widths) + &rule;
    for row in rows {
        table.push_str(&lines(row, &widths));
    }
    table + &rule
}

/// One row, on as many lines as its longest cell needs.
fn lines(cells: &[String], widths: &[usize]) -> String {
    let each = |(cell, width): (&String, &usize)| cell.split('\n').flat_map(|line| broken(line, *width)).collect::<Vec<_>>();
    let broken: Vec<Vec<String>> = cells.iter().zip(widths).map(each).collect();
    let height = broken.iter().map(Vec::len).max().unwrap_or(1);
    let line = |n: usize| -> String {
        let cell =
            |(parts, width): (&Vec<String>, &usize)| format!("| {:<width$} ", parts.get(n).map_or("", String::as_str), width = *width);
        broken.iter().zip(widths).map(cell).collect::<String>() + "|\n"
    };
    (0..height).map(line).collect()
}

/// Breaks at spaces where there are any, else anywhere.
fn broken(cell: &str, width: usize) -> Vec<String> {
    let mut parts = vec![String::new()];
    for word in cell.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        loop {
            let last = parts.last().map_or(0, |p| p.chars().count());
            let gap = usize::from(last > 0);
            if last + gap + rest.len() <= width {
                if let Some(part) = parts.last_mut() {
                    if gap == 1 {
                        part.push(' ');
                    }
                    part.extend(rest);
                }
                break;
            }
            if last > 0 {
                parts.push(String::new());
                continue;
            }
            let tail = rest.split_off(width.max(1).min(rest.len()));
            if let Some(part) = parts.last_mut() {
                part.extend(rest);
            }
            parts.push(String::new());
            rest = tail;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{pages, render};

    #[test]
    fn a_page_is_a_table_that_fits_the_screen() {
        let rows: Vec<Vec<String>> = (0..23).map(|i| vec![format!("row {i}")]).collect();
        let pages = pages(&["Heading"], &rows, 80, 15);
        assert_eq!(pages.len(), 3, "ten rows a page: {pages:?}");
        assert!(pages.iter().all(|page| page.lines().count() < 15 && page.contains("Heading")));
        assert!(pages[0].contains("row 9") && pages[1].contains("row 10") && pages[2].contains("row 22"));
        assert_eq!(super::pages(&["Heading"], &rows, 80, 2).len(), 23, "never less than a row");
    }

    #[test]
    fn a_cell_may_have_lines_of_its_own() {
        let table = render(&["A", "B"], &[vec!["x".into(), "one\ntwo".into()]], usize::MAX);
        assert_eq!(table, "+---+-----+\n| A | B   |\n+---+-----+\n| x | one |\n|   | two |\n+---+-----+\n");
    }

    #[test]
    fn cells_wrap_at_words_and_the_table_keeps_its_frame() {
        let rows = [vec!["700.001".to_string(), "Instance first owned by demo has failed on host edge".to_string()]];
        let table = render(&["Alarm ID", "Reason Text"], &rows, 40);
        assert!(table.lines().all(|l| l.chars().count() == table.lines().next().map_or(0, str::len)), "{table}");
        assert!(table.lines().count() > 5 && table.contains("700.001"), "{table}");
        assert_eq!(render(&["A"], &[vec!["b".into()]], usize::MAX), "+---+\n| A |\n+---+\n| b |\n+---+\n");
    }

    #[test]
    fn any_width_ends() {
        for width in 0..30 {
            render(&["Heading"], &[vec!["averyveryverylongwordwithoutspaces and more".into()], vec![String::new()]], width);
        }
    }
}
