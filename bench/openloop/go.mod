module flashsale-bench/openloop

go 1.24
