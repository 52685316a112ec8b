//! Boxed tables, as the Python clients print them.

#[derive(Clone, Copy, PartialEq)]
pub enum Wrap {
    No,
    /// Long cells are broken so that the table fits the terminal.
    Terminal,
}

/// Least width a column is wrapped to.
const NARROW: usize = 12;

pub fn print(headings: &[&str], rows: &[Vec<String>], wrap: Wrap) {
    // Without a terminal nobody is there to be spared long lines.
    let width =
        if wrap == Wrap::Terminal { std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(usize::MAX) } else { usize::MAX };
    print!("{}", render(headings, rows, width));
}

fn render(headings: &[&str], rows: &[Vec<String>], width: usize) -> String {
    let longest = |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([headings[i].chars().count()]).max().unwrap_or(0);
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
    let broken: Vec<Vec<String>> = cells.iter().zip(widths).map(|(cell, width)| broken(cell, *width)).collect();
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
    use super::render;

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
