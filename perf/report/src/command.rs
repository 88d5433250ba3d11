//! `dray-perf report`: a saved report as a page or as text.

use super::Document;
use clap::Args;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What to show, and where.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// What a run printed with --json
    pub file: PathBuf,
    /// Write an HTML page to this file instead of text to the terminal; into a directory, a Markdown page named by the run's day and
    /// CPU
    #[arg(short, long, value_name = "FILE|DIRECTORY")]
    pub output: Option<PathBuf>,
}

/// Shows it.
///
/// # Errors
/// If the file can't be read or is no report, or the page can't be written.
pub fn run(args: &ReportArgs) -> Result<(), String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", args.file.display());
    let json = std::fs::read_to_string(&args.file).map_err(|e| wrong(&e))?;
    let document = read(&json).map_err(|e| wrong(&e))?;
    match &args.output {
        Some(directory) if directory.is_dir() => {
            let (name, page) = document.markdown().map_err(|e| wrong(&e))?;
            write(&directory.join(name), &page)
        }
        Some(file) => write(file, &document.html().map_err(|e| wrong(&e))?),
        None => {
            print!("{}", document.text().map_err(|e| wrong(&e))?);
            Ok(())
        }
    }
}

fn write(file: &Path, page: &str) -> Result<(), String> {
    std::fs::write(file, page).map_err(|e| format!("{}: {e}", file.display()))
}

/// A report, or the one that a run's figures have with them under `report`.
fn read(json: &str) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Run {
        report: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct With {
        report: Document,
    }
    let run: Run = serde_json::from_str(json).map_err(|e| format!("not a report: {e}"))?;
    let document = match run.report {
        Some(_) => serde_json::from_str(json).map(|with: With| with.report),
        None => serde_json::from_str(json),
    };
    document.map_err(|e| format!("not a report: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_alone_and_from_runs() {
        let mut document = Document::new("Dray");
        document.fact("CPU", "two");
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(read(&json), Ok(document.clone()));
        assert_eq!(read(&format!("{{\"cases\": [1, 2], \"report\": {json}}}")), Ok(document));
        assert_eq!(read("{}").unwrap_err(), "not a report: missing field `title` at line 1 column 2");
        assert!(read("[1").unwrap_err().starts_with("not a report: "));
        let infinite = r#"{"title": "", "sections": [{"heading": "", "blocks": [{"bars": {"title": "",
            "y": {"label": ""}, "series": ["a"], "groups": [{"name": "", "bars": [{"value": 1e999}]}]}}]}]}"#;
        assert!(read(infinite).unwrap_err().contains("out of range"));
    }

    #[test]
    fn a_page_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (file, page) = (dir.path().join("run.json"), dir.path().join("page.html"));
        std::fs::write(&file, r#"{"title": "Dray"}"#).unwrap();
        run(&ReportArgs { file: file.clone(), output: Some(page.clone()) }).unwrap();
        assert!(std::fs::read_to_string(&page).unwrap().contains("<h1>Dray</h1>"));
        let run_of = r#"{"title": "Dray", "facts": [{"name": "Date", "value": "2026-01-02 03:04 UTC"}, {"name": "CPU", "value": "AMD EPYC"}]}"#;
        std::fs::write(&file, run_of).unwrap();
        run(&ReportArgs { file: file.clone(), output: Some(dir.path().into()) }).unwrap();
        assert!(std::fs::read_to_string(dir.path().join("2026-01-02-amd-epyc.md")).unwrap().starts_with("# Dray\n"));
        let missing = dir.path().join("missing.json");
        let error = run(&ReportArgs { file: missing.clone(), output: None }).unwrap_err();
        assert!(error.starts_with(&missing.display().to_string()), "{error}");
        let error = run(&ReportArgs { file, output: Some(dir.path().join("no/page.html")) }).unwrap_err();
        assert!(error.contains("no/page.html"), "{error}");
    }
}
