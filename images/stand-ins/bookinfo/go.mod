module meshstrap.dev/lab/bookinfo

go 1.26
